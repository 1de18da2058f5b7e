// What the pages of `worldmodel play` share: the socket, keys of the keyboard and under fingers, words, pictures.

export const at = id => document.getElementById(id);
const held = new Map();   // what holds a key down (a key of the keyboard, a finger) -> the task's key
const names = {" ": "space", arrowup: "up", arrowdown: "down", arrowleft: "left", arrowright: "right"};
const arrows = {up: "w", down: "s", left: "a", right: "d"};   // where the task has no such key itself
let socket, axes = [], little = false, sent = "";

export const shortcuts = new Map();   // key -> what is done when it is pressed and nothing is focused

// Tell `show` what the server says, for ever, and `lost` when it is gone.
export function connect(show, lost) {
  socket = new WebSocket(`ws://${location.host}/socket`);
  socket.onmessage = event => show(JSON.parse(event.data));
  socket.onclose = () => { lost(); setTimeout(() => connect(show, lost), 1000); };
}

export function send(what, more = {}) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({do: what, ...more}));
}

// Show the task, and a button for each of its keys.
export function introduceTask(about) {
  axes = about.axes;
  sent = "";
  document.title = `${about.task} · worldmodel play`;
  at("task").textContent = about.task;
  at("say").placeholder = about.example;
  at("keys").replaceChildren(...axes.flatMap(axis => axis.keys.map((key, side) => keyButton(key, axis.words[side]))));
}

export function draw(id, url) {
  const canvas = at(id);
  if (canvas.url === url) return;
  canvas.url = url;
  const picture = new Image();
  picture.onload = () => {
    if (canvas.url !== url) return;
    canvas.width = picture.width; canvas.height = picture.height;
    canvas.style.imageRendering = picture.width < 200 ? "pixelated" : "auto";
    canvas.getContext("2d").drawImage(picture, 0, 0);
  };
  picture.src = url;
}

export function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

export function showNote(state) {
  at("note").textContent = state.note;
  at("note").classList.toggle("failed", state.failed);
}

function sendKeys() {
  const keys = [...new Set(held.values())].sort();
  const message = JSON.stringify([keys, little && keys.length > 0]);
  for (const button of at("keys").children) button.setAttribute("aria-pressed", keys.includes(button.dataset.key));
  if (message !== sent) send("keys", {keys, little});
  sent = message;
}

function keyButton(key, words) {
  const button = element("button", "");
  button.dataset.key = key;
  button.append(element("kbd", key), words);
  const release = event => { held.delete(event.pointerId); sendKeys(); };
  button.onpointerdown = event => { button.setPointerCapture(event.pointerId); held.set(event.pointerId, key); sendKeys(); };
  button.onpointerup = button.onpointercancel = button.onlostpointercapture = release;
  button.oncontextmenu = event => event.preventDefault();
  return button;
}

const typing = () => document.activeElement && ["INPUT", "SELECT"].includes(document.activeElement.tagName);
const known = key => axes.some(axis => axis.keys.includes(key));

addEventListener("keydown", event => {
  if (event.key === "Shift") { little = true; sendKeys(); }
  if (event.key === "Escape") document.activeElement.blur();
  if (typing() || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = names[event.key.toLowerCase()] || event.key.toLowerCase();
  const key = known(name) ? name : arrows[name];
  if (known(key)) {
    event.preventDefault();
    if (document.activeElement !== document.body) document.activeElement.blur();
    held.set(event.code, key);
    sendKeys();
  } else if (shortcuts.has(name) && document.activeElement === document.body) {
    event.preventDefault();   // a space would scroll
    if (!event.repeat) shortcuts.get(name)();
  }
});
addEventListener("keyup", event => {
  if (event.key === "Shift") little = false;
  held.delete(event.code);
  sendKeys();
});
addEventListener("blur", () => { held.clear(); little = false; sendKeys(); });

at("words").onsubmit = event => {
  event.preventDefault();
  send("say", {text: at("say").value || at("say").placeholder, steps: Math.round(Number(at("steps").value))});
};
