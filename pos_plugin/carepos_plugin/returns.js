// Taking sales back: the list of what can be voided, a receipt's lines to pick, and one sentence.
// A refund keeps its number until it is answered, so that a lost answer never makes two of it.
"use strict";
(() => {
  const KEY = "carepos-returns";
  const EVERY_MS = 5000;
  const at = (id) => document.getElementById(id);
  const UNITS = { piece: "件", g: "克", ml: "毫升" };
  let busy = false, found = null, refund = "", voiding = null, awaited = "", timer = 0, drawn = "";

  const call = async (path, body) => {
    const answer = await fetch(`/returns/${path}`, {
      method: "POST", cache: "no-store", credentials: "omit", redirect: "error",
      headers: { "Content-Type": "application/json", "X-CarePOS-Returns": localStorage.getItem(KEY) || "" },
      body: JSON.stringify(body),
    });
    return { ok: answer.ok, status: answer.status, body: await answer.json() };
  };

  const say = (kind, zh, en) => {
    at("said").dataset.kind = kind;
    at("zh").textContent = zh;
    at("en").textContent = en;
  };
  const lost = () => say("wait", "连接中断，请重试；同一操作不会重复。", "Connection lost: try again, nothing is done twice.");

  const make = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const money = (minor, currency) => {
    const format = new Intl.NumberFormat("zh-CN", { style: "currency", currency, currencyDisplay: "code" });
    return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
  };

  const number = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return `page-${Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("")}`;
  };

  const people = () => {
    if (!at("who").reportValidity()) return null;
    const named = { cashier: at("cashier").value.trim() };
    if (at("second").value.trim()) named.approved_by = at("second").value.trim();
    return named;
  };

  const told = (done) => {
    const kind = { posted: "done", refused: "no", waiting: "wait" }[done.state];
    let zh = `${done.message.zh}${done.next.zh}`, en = `${done.message.en} ${done.next.en}`;
    if (done.taken_back && done.beneficiary_minor && !done.repeated) {
      const own = money(done.beneficiary_minor, done.currency);
      zh = `${done.message.zh}请退还顾客自付 ${own}。`;
      en = `${done.message.en} Give the customer ${own} back.`;
    }
    awaited = done.state === "waiting" ? done.receipt_no : "";
    say(kind, zh, en);
    at("said").focus();
  };

  const draw = (state) => {
    at("shop").textContent = state.shop;
    const now = JSON.stringify(state);
    if (now === drawn) return;  // a button under a finger is not replaced for nothing
    drawn = now;
    at("none").hidden = state.voidable.length > 0;
    at("sales").replaceChildren(...state.voidable.map((sale) => {
      const item = make("li"), text = make("p");
      const until = new Date(sale.void_until).toLocaleTimeString("zh-CN", { hour: "2-digit", minute: "2-digit" });
      text.append(make("span", sale.receipt_no, "number"), " · ", make("span", money(sale.amount_minor, sale.currency), "money"),
        make("br"), make("span", `${sale.goods.join("、")} · ${sale.checkout} · 至 until ${until}`, "goods"));
      const button = make("button", "撤销 ");
      button.type = "button";
      const small = make("small", "Void");
      small.lang = "en";
      button.append(small);
      button.addEventListener("click", () => ask(sale));
      item.append(text, button);
      return item;
    }));
    at("open").hidden = state.waiting.length === 0;
    at("waiting").replaceChildren(...state.waiting.map((undo) => {
      const item = make("li"), text = make("p");
      text.append(make("span", `${undo.kind === "void" ? "撤销 Void" : "退货 Refund"} ${undo.sale_receipt_no}`, "number"), " · ",
        make("span", money(undo.amount_minor, undo.currency), "money"), make("br"),
        make("span", `${undo.message.zh} ${undo.message.en}`, "goods"));
      item.append(text);
      if (!undo.seen) {
        const button = make("button", "知道了 "), small = make("small", "Seen");
        button.type = "button";
        small.lang = "en";
        button.append(small);
        button.addEventListener("click", () => send("seen", { receipt_no: undo.receipt_no }, told));
        item.append(button);
      }
      return item;
    }));
  };

  const look = async () => {
    clearTimeout(timer);
    if (!busy) {
      try {
        const answer = await call("state", {});
        if (answer.ok) {
          draw(answer.body);
          if (awaited && answer.body.waiting.every((undo) => undo.receipt_no !== awaited || undo.final)) {
            const ended = await call("standing", { receipt_no: awaited });
            if (ended.ok) told(ended.body);
          }
          if (at("said").dataset.kind === "idle") say("idle", "请选择要撤销的单，或输入单号退货。", "Choose a sale to void, or enter a receipt number for a refund.");
        } else say("no", answer.body.zh, answer.body.en);
      } catch (error) { lost(); }
    }
    timer = setTimeout(look, EVERY_MS);
  };

  // One at a time: the page does nothing else until the plugin has answered.
  const send = async (path, body, then) => {
    if (busy) return;
    busy = true;
    awaited = "";
    say("wait", "正在处理，请稍候", "Working, please wait");
    for (const button of document.querySelectorAll("main button")) button.disabled = true;
    try {
      const answer = await call(path, body);
      if (answer.ok) then(answer.body);
      else say("no", answer.body.zh, answer.body.en);
    } catch (error) { lost(); }
    finally {
      busy = false;
      for (const button of document.querySelectorAll("main button")) button.disabled = false;
      count();
      await look();
    }
  };

  const ask = (sale) => {
    if (busy || people() === null) return;
    voiding = sale;
    at("which").textContent = `${sale.receipt_no} · ${money(sale.amount_minor, sale.currency)} · ${sale.goods.join("、")}`;
    at("sure").returnValue = "no";
    at("sure").showModal();
  };
  at("sure").addEventListener("close", () => {
    const named = people();
    if (at("sure").returnValue !== "yes" || voiding === null || named === null) return;
    const { checkout, receipt_no } = voiding;
    voiding = null;
    send("void", { checkout, receipt_no, reason: at("cause").value, ...named }, told);
  });

  const picked = () => found === null ? [] : Array.from(at("lines").querySelectorAll("input"))
    .map((input) => ({ line: Number(input.dataset.line), quantity: Number(input.value) }))
    .filter((line) => Number.isInteger(line.quantity) && line.quantity > 0);
  const count = () => { at("give").disabled = busy || picked().length === 0; };

  const list = (sale) => {
    found = sale;
    refund = number();
    say("idle", "请选择退回的数量。", "Choose how much comes back.");
    at("lines").replaceChildren(...sale.lines.map((line) => {
      const row = make("tr"), goods = make("td", line.description), back = make("td");
      goods.append(make("br"), make("span", `${line.quantity} ${UNITS[line.unit]} · 可退 left ${line.left}`, "goods"));
      const input = make("input");
      Object.assign(input, { type: "number", min: "0", max: String(line.left), step: "1", value: "0", inputMode: "numeric" });
      input.dataset.line = line.line;
      input.disabled = line.left === 0 || line.programme_minor === 0;
      input.setAttribute("aria-label", `退回 Comes back: ${line.description}`);
      input.addEventListener("input", () => { refund = number(); count(); });
      back.append(input);
      row.append(goods, make("td", money(line.programme_minor, sale.currency), "money"), back);
      return row;
    }));
    at("pick").hidden = false;
    count();
  };
  at("look").addEventListener("submit", (event) => {
    event.preventDefault();
    found = null;
    at("pick").hidden = true;
    send("find", { receipt: at("receipt").value.trim() }, list);
  });
  at("pick").addEventListener("submit", (event) => {
    event.preventDefault();
    const named = people();
    if (named === null || found === null || !at("pick").reportValidity()) return;
    const body = { refund, receipt: found.receipt_no, lines: picked(), reason: at("why").value, ...named };
    send("refund", body, (done) => {
      told(done);
      found = null;
      at("pick").hidden = true;
      at("look").reset();
    });
  });
  at("who").addEventListener("submit", (event) => event.preventDefault());

  const begin = async () => {
    const code = location.hash.slice(1);
    if (code) {
      history.replaceState(null, "", location.pathname);
      try {
        const answer = await call("pair", { code });
        if (answer.ok) localStorage.setItem(KEY, answer.body.secret);
        else if (!localStorage.getItem(KEY)) { say("no", answer.body.zh, answer.body.en); return; }
      } catch (error) { say("no", "连接中断，请重新打开链接", "Connection lost: open the link again"); return; }
    }
    look();
  };
  window.addEventListener("hashchange", begin);
  begin();
})();
