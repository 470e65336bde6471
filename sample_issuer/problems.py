"""Every no of the sample issuer: a stable code, an HTTP status, what people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from carepos.errors import CareposError


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: how it is answered, and the sentences for the person with the phone."""

    status: int
    en: str
    zh: str


_AGAIN_EN: Final = "Please sign in again."
_AGAIN_ZH: Final = "请重新登录。"

KINDS: Final[dict[str, Kind]] = {
    "id_token_malformed": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_alg": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_signature": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_issuer": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_audience": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_azp": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_expired": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_stale": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_not_yet_valid": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "id_token_nonce": Kind(401, _AGAIN_EN, _AGAIN_ZH),
    "methods_not_enough": Kind(
        403, "Please sign in with your face or a code by phone.", "请使用人脸或短信验证码登录。"
    ),
    "person_unknown": Kind(
        403,
        "Nothing was issued to you here. Please ask the programme's office.",
        "未查到您的爱心券，请联系项目办公室。",
    ),
    "login_interrupted": Kind(400, _AGAIN_EN, _AGAIN_ZH),
    "request_malformed": Kind(400, "The request is not of the agreed form.", "请求格式不正确。"),
    "too_many": Kind(429, "Too often. Please wait a minute.", "操作过于频繁，请稍候。"),
    "provider_unreachable": Kind(
        503,
        "Signing in does not work just now. Please try again soon.",
        "登录服务暂不可用，请稍后再试。",
    ),
}  # fmt: skip


class Problem(CareposError):
    """A no with its code. `claim` and `why` are for developers and never hold a value."""

    def __init__(self, code: str, why: str, claim: str | None = None) -> None:
        super().__init__(f"{code}: {why}" if claim is None else f"{code}: {claim} {why}")
        self.code = code
        self.claim = claim
        self.why = why

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]

    def to_json(self) -> dict[str, object]:
        kind = self.kind
        return {
            "code": self.code,
            "claim": self.claim,
            "detail": self.why,
            "en": kind.en,
            "zh": kind.zh,
        }
