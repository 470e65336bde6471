"""The open redemption stack for digital aid vouchers: the SDK."""
