// <image-upload>: drop, paste, choose or photograph images; each is sent to an upload ticket.
//
//   <script type="module" src="https://images.example.com/upload/image-upload.js"></script>
//   <image-upload ticket-url="/my/ticket" bucket="photos" name="photo" multiple></image-upload>
//
// `ticket-url` is an address of the page's own site. It receives a POST of {bucket, name, type, size}
// and answers with the ticket: the answer of POST /api/v1/uploads. A page that gets tickets otherwise
// sets the property `getTicket` to an async function of the same object. If the ticket is direct, the
// file goes straight to S3.
//
// Events (they bubble): `upload-done` with detail {file, result}, `upload-error` with detail
// {file, problem}. In a form, the value of the field `name` is the image's id, one for each image.
// Style it with ::part(drop), ::part(button), ::part(item) and the property --upload-accent.

const PARALLEL = 3;
const SECONDS = 30; // the longest time that the service lets a request wait
const TYPES = "image/jpeg,image/png,image/webp,image/gif,image/avif,image/heic,image/heif";

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; font: inherit; color: inherit; --accent: var(--upload-accent, #2456c8); }
:host([hidden]) { display: none; }
.drop { border: 2px dashed color-mix(in srgb, currentColor 35%, transparent); border-radius: 12px;
  padding: 28px 16px; text-align: center; transition: border-color .15s, background .15s; }
.drop.over { border-color: var(--accent); background: color-mix(in srgb, var(--accent) 10%, transparent); }
p { margin: 0 0 14px; }
.hint { margin: 12px 0 0; font-size: .875em; opacity: .75; }
button { font: inherit; cursor: pointer; border-radius: 8px; padding: 8px 16px; min-height: 44px;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent); background: none; color: inherit; }
.choose { background: var(--accent); border-color: var(--accent); color: #fff; font-weight: 600; }
button:focus-visible { outline: 3px solid color-mix(in srgb, var(--accent) 60%, transparent); outline-offset: 2px; }
.camera { display: none; margin-left: 8px; }
@media (pointer: coarse) { .camera { display: inline-block; } }
ul { list-style: none; margin: 12px 0 0; padding: 0; display: grid; gap: 8px; }
li { display: grid; grid-template-columns: 48px minmax(0, 1fr) auto; gap: 4px 12px; align-items: center;
  padding: 8px; border-radius: 10px; border: 1px solid color-mix(in srgb, currentColor 18%, transparent); }
img:not([alt]) { visibility: hidden; }
img { width: 48px; height: 48px; object-fit: cover; border-radius: 6px; grid-row: span 2;
  background: color-mix(in srgb, currentColor 10%, transparent); }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; unicode-bidi: isolate; }
.state { grid-column: 2; font-size: .875em; opacity: .85; overflow-wrap: anywhere; }
.failed .state { color: light-dark(#a4161a, #ff9b9b); opacity: 1; }
.actions { grid-column: 3; grid-row: 1 / span 2; display: flex; gap: 6px; }
.actions button { padding: 4px 10px; }
@media (max-width: 480px) {
  li { grid-template-columns: 48px minmax(0, 1fr); }
  .actions { grid-column: 1 / -1; grid-row: auto; justify-content: flex-end; }
}
progress { width: 100%; height: 6px; accent-color: var(--accent); }
.quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (prefers-reduced-motion: reduce) { .drop { transition: none; } }
`);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

class ImageUpload extends HTMLElement {
  static formAssociated = true;
  static observedAttributes = ["multiple", "required", "disabled"];

  #internals = this.attachInternals();
  #items = new Map(); // by <li>: {file, state, result}
  #waiting = [];
  #running = 0;
  #input;
  #camera;
  #choose;
  #hint;
  #drop;
  #list;
  #spoken;

  getTicket = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    root.adoptedStyleSheets = [sheet];
    this.#input = make("input", { type: "file", accept: TYPES, hidden: true });
    this.#camera = make("input", { type: "file", accept: "image/*", hidden: true });
    this.#camera.setAttribute("capture", "environment");
    this.#choose = make("button", { type: "button", className: "choose", part: "button" });
    const shoot = make("button", { type: "button", className: "camera", textContent: "Take a photo" });
    this.#hint = make("p", { className: "hint" });
    this.#drop = make("div", { className: "drop", part: "drop" }, this.#choose, shoot, this.#hint);
    this.#list = make("ul");
    this.#spoken = make("div", { className: "quiet", role: "status" });
    root.append(this.#drop, this.#list, this.#spoken, this.#input, this.#camera);

    this.#choose.addEventListener("click", () => this.#input.click());
    shoot.addEventListener("click", () => this.#camera.click());
    for (const input of [this.#input, this.#camera]) {
      input.addEventListener("change", () => {
        this.add(input.files);
        input.value = "";
      });
    }
    for (const [type, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
      this.#drop.addEventListener(type, (event) => {
        event.preventDefault();
        this.#drop.classList.toggle("over", over);
        if (type === "drop") this.add(event.dataTransfer.files);
      });
    }
    this.addEventListener("paste", (event) => this.add(event.clipboardData.files));
  }

  connectedCallback() {
    this.attributeChangedCallback();
  }

  attributeChangedCallback() {
    const multiple = this.hasAttribute("multiple");
    this.#input.multiple = multiple;
    this.#choose.textContent = this.getAttribute("label") ?? (multiple ? "Choose images" : "Choose an image");
    this.#hint.textContent = `or drop or paste ${multiple ? "them" : "it"} here`;
    this.#choose.disabled = this.hasAttribute("disabled");
    this.#updateForm();
  }

  formDisabledCallback(disabled) {
    this.toggleAttribute("disabled", disabled);
  }

  formResetCallback() {
    for (const row of [...this.#items.keys()]) this.#remove(row);
  }

  /** The ids of the images that have been uploaded. */
  get value() {
    const done = [...this.#items.values()].filter((item) => item.result);
    return done.map((item) => item.result.image_id);
  }

  /** Upload `files`, a FileList or an array. Without `multiple`, the last one replaces the others. */
  add(files) {
    if (this.hasAttribute("disabled")) return;
    const added = this.hasAttribute("multiple") ? [...files] : [...files].slice(-1);
    if (added.length && !this.hasAttribute("multiple")) this.formResetCallback();
    for (const file of added) this.#show(file);
    this.#start();
  }

  #show(file) {
    const preview = make("img", { alt: "", src: URL.createObjectURL(file) });
    preview.addEventListener("error", () => preview.removeAttribute("alt"), { once: true });
    const name = make("span", { className: "name", textContent: file.name, title: file.name });
    const state = make("span", { className: "state", textContent: "Waiting" });
    const actions = make("span", { className: "actions" });
    const row = make("li", { part: "item" }, preview, name, state, actions);
    this.#items.set(row, { file, state, actions, preview: preview.src });
    this.#setActions(row, ["Remove"]);
    this.#list.append(row);
    this.#waiting.push(row);
    this.#updateForm();
  }

  #start() {
    while (this.#running < PARALLEL && this.#waiting.length) {
      const row = this.#waiting.shift();
      if (!this.#items.has(row)) continue;
      this.#running += 1;
      this.#upload(row).finally(() => {
        this.#running -= 1;
        this.#start();
      });
    }
  }

  async #upload(row) {
    const item = this.#items.get(row);
    const { file } = item;
    row.classList.remove("failed");
    try {
      item.ticket ??= await this.#findTicket(file);
      const result = await this.#send(row, item);
      if (!this.#items.has(row)) return;
      item.result = result;
      this.#setState(row, "Done");
      this.#setActions(row, ["Remove"]);
      this.#updateForm();
      this.#report("upload-done", { file, result });
    } catch (problem) {
      if (!this.#items.has(row)) return;
      const fault = problem.detail ? problem : { title: "The upload failed", detail: String(problem.message ?? problem) };
      if (fault.code === "ticket_invalid" || fault.code === "ticket_spent") item.ticket = null;
      row.classList.add("failed");
      this.#setState(row, fault.detail);
      this.#setActions(row, ["Retry", "Remove"]);
      this.#report("upload-error", { file, problem: fault });
    }
  }

  async #findTicket(file) {
    const wanted = { bucket: this.getAttribute("bucket"), name: file.name, type: file.type, size: file.size };
    if (this.getTicket) return resolve(await this.getTicket(wanted));
    const address = this.getAttribute("ticket-url");
    if (!address) throw new Error("This page has no ticket-url.");
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wanted),
    });
    if (!answer.ok) throw await readProblem(answer);
    return resolve(await answer.json());
  }

  async #send(row, item) {
    const bar = make("progress", { max: 1, value: 0 });
    bar.setAttribute("aria-label", `Uploading ${item.file.name}`);
    item.state.replaceChildren(bar);
    const { url, direct } = item.ticket;
    // What S3 would refuse goes to the service, which says why.
    const isDirect = direct && item.file.size > 0 && item.file.size <= direct.max_bytes;
    let [status, body] = isDirect
      ? await this.#sendDirect(row, item, bar)
      : await this.#transfer(row, item, bar, "PUT", url, item.file);
    while (status === 202 || status === 409) {
      if (status === 409 && parse(body, status).code !== "job_not_ready") break;
      await new Promise((done) => setTimeout(done, 1000)); // the service may be too busy to let it wait
      const answer = await fetch(url);
      [status, body] = [answer.status, await answer.text()];
    }
    const result = parse(body, status);
    if (status !== 200) throw result;
    return result;
  }

  async #sendDirect(row, item, bar) {
    const { direct, completeUrl } = item.ticket;
    const { method, url, fields, headers } = direct;
    let body = item.file;
    if (method === "POST") {
      body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      body.append("file", item.file); // S3 ignores what follows it
    }
    const [status] = await this.#transfer(row, item, bar, method, url, body, headers);
    if (!this.#items.has(row)) throw new Error("The upload was stopped.");
    if (status >= 300) {
      item.ticket = null; // it may have expired
      throw new Error(`The storage refused the file (${status}). Try again.`);
    }
    return this.#transfer(row, item, bar, "POST", completeUrl);
  }

  #transfer(row, item, bar, method, url, body, headers = {}) {
    return new Promise((done, fail) => {
      const request = new XMLHttpRequest(); // fetch does not report the progress of an upload
      item.request = request;
      request.open(method, url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => {
        if (event.lengthComputable) bar.value = event.loaded / event.total;
      };
      request.upload.onload = () => this.#setState(row, "Processing");
      request.onload = () => done([request.status, request.responseText]);
      request.onerror = () => fail(new Error("The connection was lost. Try again."));
      request.onabort = () => fail(new Error("The upload was stopped."));
      request.send(body);
    });
  }

  #setState(row, text) {
    const item = this.#items.get(row);
    if (!item) return;
    item.state.textContent = text;
    this.#spoken.textContent = `${item.file.name}: ${text}`;
  }

  #setActions(row, names) {
    const item = this.#items.get(row);
    const buttons = names.map((name) => {
      const button = make("button", { type: "button", textContent: name });
      button.setAttribute("aria-label", `${name} ${item.file.name}`);
      button.addEventListener("click", () => (name === "Retry" ? this.#retry(row) : this.#remove(row)));
      return button;
    });
    item.actions.replaceChildren(...buttons);
  }

  #retry(row) {
    this.#setState(row, "Waiting");
    this.#setActions(row, ["Remove"]);
    this.#waiting.push(row);
    this.#start();
    this.#choose.focus();
  }

  #remove(row) {
    const item = this.#items.get(row);
    const hadFocus = row.matches(":focus-within");
    this.#items.delete(row);
    item.request?.abort();
    URL.revokeObjectURL(item.preview);
    row.remove();
    this.#updateForm();
    if (hadFocus) this.#choose.focus();
  }

  #updateForm() {
    const name = this.getAttribute("name");
    const form = new FormData();
    if (name) for (const id of this.value) form.append(name, id);
    this.#internals.setFormValue(name && this.value.length ? form : null);
    const isOpen = [...this.#items.values()].some((item) => !item.result);
    if (this.hasAttribute("required") && !this.value.length) {
      this.#internals.setValidity({ valueMissing: true }, "Choose an image.", this.#choose);
    } else if (isOpen) {
      this.#internals.setValidity({ customError: true }, "Wait for the upload, or remove it.", this.#choose);
    } else {
      this.#internals.setValidity({});
    }
  }

  #report(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { bubbles: true, composed: true, detail }));
  }
}

// The service sends addresses relative to itself, and this module comes from it.
function resolve(ticket) {
  if (!ticket?.upload_url) throw new Error("The ticket has no upload_url.");
  const { upload_url, complete_url, direct } = ticket;
  return { url: makeAddress(upload_url), completeUrl: complete_url && makeAddress(complete_url), direct };
}

function makeAddress(url) {
  const address = new URL(url, import.meta.url);
  address.searchParams.set("wait", SECONDS);
  return address.href;
}

async function readProblem(answer) {
  return parse(await answer.text(), answer.status);
}

function parse(text, status) {
  try {
    return JSON.parse(text);
  } catch {
    return { title: "The upload failed", detail: `The server answered ${status}. Try again later.`, status };
  }
}

customElements.define("image-upload", ImageUpload);
