// The PIN pad: shows the one card that waits, takes digits, sends one press of OK.
// The digits live in `digits` until OK or a change of card, and nowhere else: no storage, no field.
"use strict";
(() => {
  const KEY = "carepos-pin-pad";
  const LONGEST = 8, SHORTEST = 4;
  const BOUNCE_MS = 120;  // a wet finger touches twice
  const TYPIST_MS = 35;   // a scanner types faster than any person
  const pad = document.getElementById("pad");
  const at = (id) => document.getElementById(id);
  let digits = "", shown = null, busy = false, last = { key: "", at: 0 }, timer = 0, typed = 0;

  const call = async (path, body) => {
    const stop = new AbortController();
    const limit = setTimeout(() => stop.abort(), 90000);
    try {
      const answer = await fetch(`/pin-pad/${path}`, {
        method: "POST", cache: "no-store", credentials: "omit", redirect: "error",
        headers: { "Content-Type": "application/json", "X-CarePOS-Pin-Pad": localStorage.getItem(KEY) || "" },
        body: JSON.stringify(body), signal: stop.signal,
      });
      return { status: answer.status, body: await answer.json() };
    } finally { clearTimeout(limit); }
  };

  const say = (zh, en) => {
    if (at("zh").textContent !== zh) at("zh").textContent = zh;
    if (at("en").textContent !== en) at("en").textContent = en;
  };

  const draw = () => {
    const open = shown !== null && shown.state === "waiting" && !busy;
    at("dots").textContent = "●".repeat(digits.length);
    at("count").textContent = digits.length ? `${digits.length}` : "";
    for (const button of document.querySelectorAll("button")) {
      const key = button.dataset.key;
      button.disabled = !open || (key === "ok" && digits.length < SHORTEST)
        || (key === "delete" && !digits.length);
    }
  };

  const show = (state) => {
    // Another card, another press, or none: what was typed belongs to the one before.
    if (shown === null || shown.request !== state.request || shown.entry !== state.entry) digits = "";
    shown = state;
    pad.dataset.state = state.state;
    pad.dataset.wrong = state.wrong ? "yes" : "no";
    at("shop").textContent = state.shop;
    at("card").textContent = state.card ? `卡 Card ${state.card}` : "";
    say(state.zh, state.en);
    draw();
  };

  const fail = (zh, en) => {
    digits = ""; shown = null;
    pad.dataset.state = "failed"; pad.dataset.wrong = "no";
    at("card").textContent = "";
    say(zh, en); draw();
  };

  const take = (answer) => {
    if (answer.status === 200) show(answer.body);
    else if (answer.status === 401) fail(answer.body.zh, answer.body.en);
    else if (answer.status !== 410) fail("请稍候", "Please wait");
  };

  const look = async () => {
    clearTimeout(timer);
    if (!busy) {
      try { take(await call("state", {})); }
      catch (error) { fail("连接中断，正在重连…", "Connection lost, trying again…"); }
    }
    timer = setTimeout(look, shown !== null && shown.state === "waiting" ? 700 : 1000);
  };

  const send = async (path, body) => {
    busy = true; draw();
    try {
      if (path === "enter") say("正在核对，请稍候", "Checking, please wait");
      take(await call(path, body));
    } catch (error) {
      fail("连接中断，正在重连…", "Connection lost, trying again…");
    } finally {
      busy = false; draw(); look();
    }
  };

  const press = (key) => {
    if (shown === null || shown.state !== "waiting" || busy) return;
    const now = performance.now();
    if (key === last.key && now - last.at < BOUNCE_MS) { last.at = now; return; }
    last = { key, at: now };
    if (navigator.vibrate) navigator.vibrate(15);
    if (key === "cancel") {
      digits = "";
      send("cancel", { request: shown.request });
    } else if (key === "delete") {
      digits = digits.slice(0, -1);
    } else if (key === "ok") {
      if (digits.length < SHORTEST) return;
      const body = { request: shown.request, entry: shown.entry, pin: digits };
      digits = "";
      send("enter", body);
    } else if (digits.length < LONGEST) {
      digits += key;
    }
    draw();
  };

  at("keys").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && !button.disabled) press(button.dataset.key);
  });

  // A keypad on a cable. What a scanner types into this page by mistake is never a PIN.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const now = performance.now();
    const machine = now - typed < TYPIST_MS;
    typed = now;
    const named = { Enter: "ok", Backspace: "delete", Delete: "delete", Escape: "cancel" };
    const key = /^[0-9]$/.test(event.key) ? event.key : named[event.key];
    if (machine || (key === undefined && event.key.length === 1)) {
      digits = ""; draw(); event.preventDefault(); return;
    }
    if (key === undefined) return;
    if (key === "ok" && event.target.closest && event.target.closest("button:not(.ok)")) return;
    event.preventDefault();
    press(key);
  });

  document.addEventListener("visibilitychange", () => {
    digits = ""; draw();
    if (!document.hidden) look();
  });
  document.addEventListener("contextmenu", (event) => event.preventDefault());

  const begin = async () => {
    const code = location.hash.slice(1);
    if (code) {
      history.replaceState(null, "", location.pathname);
      try {
        const answer = await call("pair", { code });
        if (answer.status === 200) localStorage.setItem(KEY, answer.body.secret);
        else if (!localStorage.getItem(KEY)) { fail(answer.body.zh, answer.body.en); return; }
      } catch (error) { fail("连接中断，请重新打开链接", "Connection lost: open the link again"); return; }
    }
    look();
  };
  window.addEventListener("hashchange", begin);
  begin();
})();
