// Small things on every page: a question before a button that matters, and no double press.
(() => {
  "use strict";

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const ask = (question, label) =>
    new Promise((answer) => {
      const no = make("button", { class: "t-button", value: "", type: "submit" }, "Not now");
      const yes = make("button", { class: "t-button t-button-primary", value: "yes", type: "submit" }, label);
      const form = make("form", { method: "dialog" }, make("p", {}, question), make("menu", {}, no, yes));
      const dialog = make("dialog", { class: "t-confirm" }, form);
      dialog.addEventListener("close", () => {
        dialog.remove();
        answer(dialog.returnValue === "yes");
      });
      document.body.append(dialog);
      dialog.showModal();
      yes.focus();
    });

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.closest("[data-actions]")) return;
    if (form.dataset.confirm && form.dataset.confirmed !== "yes") {
      event.preventDefault();
      if (await ask(form.dataset.confirm, form.dataset.confirmLabel || "Yes")) {
        form.dataset.confirmed = "yes";
        form.requestSubmit();
      }
      return;
    }
    for (const button of form.querySelectorAll("button")) setTimeout(() => (button.disabled = true));
  });
})();
