// The upload page: gets a ticket for each image, and shows what became of it.

import "./image-upload.js";

const base = new URL("..", import.meta.url); // of the service
const widget = document.querySelector("image-upload");
const access = document.getElementById("access");
const uploads = document.getElementById("uploads");
const results = document.getElementById("results");
const bucket = document.getElementById("bucket");
const STORE = "imageprocessor-upload-token";

// By the names in `metadata.removed`.
const REMOVED = {
  c2pa: "content credentials",
  comment: "comment",
  exif: "camera data",
  gain_map: "HDR gain map",
  gps: "GPS position",
  icc: "colour profile (colours converted to sRGB)",
  iptc: "IPTC caption",
  mpf: "further images",
  other: "other data",
  thumbnail: "embedded thumbnail",
  time: "date",
  trailer: "data behind the image",
  xmp: "XMP",
};

// By the names in `metadata.warnings`.
const WARNINGS = {
  animation_flattened: "only the first frame is kept",
  end_missing: "the file lacks its end mark",
  hdr_flattened: "light brighter than white became white",
  hdr_gain_map_dropped: "only the standard-range image is kept",
  icc_invalid: "the colour profile is unusable",
  max_bytes_exceeded: "no quality fits the limit of bytes",
  not_enlarged: "smaller than some of the sizes; it was not enlarged",
};

let token = readToken();

function readToken() {
  const sent = new URLSearchParams(location.hash.slice(1)).get("token");
  if (sent) {
    sessionStorage.setItem(STORE, sent);
    // Neither the history nor a copied address is to contain it.
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(STORE);
}

function show(note) {
  access.hidden = Boolean(token);
  uploads.hidden = !token;
  document.getElementById("access-note").textContent = note ?? "To upload, paste a token of this service.";
}

function forget(note) {
  sessionStorage.removeItem(STORE);
  token = null;
  show(note);
}

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(new URL(path, base), { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  const content = text ? JSON.parse(text) : null;
  if (answer.status === 401) forget("The token is not valid, or has expired. Paste a new one.");
  if (!answer.ok) throw content;
  return content;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function formatBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1000).toFixed(bytes < 1e4 ? 1 : 0)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function compareSizes(file, size) {
  const part = Math.round((1 - size / file) * 100);
  if (part > 0) return make("span", { className: "saved", textContent: `${part} % smaller` });
  return make("span", { textContent: part < 0 ? `${-part} % larger` : "as large" });
}

// The variants that show the whole image, the widest first.
function findWhole({ responsive, variants }) {
  return responsive.map((name) => [name, variants[name]]).reverse();
}

function describeTable(file, metadata) {
  const head = make("tr", {}, ...["Size", "Pixels", "Format", "Bytes"].map((text) => make("th", { textContent: text, scope: "col" })));
  const rows = Object.entries(metadata.variants).map(([name, each]) =>
    make("tr", {}, ...[name, `${each.width} × ${each.height}`, each.format.toUpperCase(), formatBytes(each.size_bytes)].map((text) => make("td", { textContent: text }))),
  );
  const { width, height } = metadata.original_dimensions;
  const type = file.type.replace("image/", "").toUpperCase();
  const upload = make("tr", {}, ...["upload", `${width} × ${height}`, type, formatBytes(file.size)].map((text) => make("td", { textContent: text })));
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, upload, ...rows)));
}

function drawColors(colors) {
  const swatches = make("span", { className: "swatches" });
  for (const color of colors) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 1 1");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", color);
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("width", "1");
    rect.setAttribute("height", "1");
    rect.setAttribute("fill", color);
    svg.append(rect);
    swatches.append(svg, make("code", { textContent: color }));
  }
  return swatches;
}

function describeFacts(file, metadata) {
  const facts = make("dl");
  const add = (term, ...content) => facts.append(make("div", {}, make("dt", { textContent: term }), make("dd", {}, ...content)));
  const removed = metadata.removed.map((kind) => REMOVED[kind] ?? kind);
  add("Removed", removed.length ? removed.join(", ") : "There was no metadata to remove.");
  const whole = findWhole(metadata);
  if (whole.length) {
    const [name, largest] = whole[0];
    add(`Bytes of “${name}”`, compareSizes(file.size, largest.size_bytes));
  }
  add("Colours", drawColors(metadata.palette ?? [metadata.dominant_color]));
  const placeholder = metadata.placeholder?.data_url;
  if (placeholder) add("Placeholder", make("img", { src: placeholder, alt: "", width: 48, height: 48 }));
  if (metadata.warnings.length) {
    const said = metadata.warnings.map((warning) => WARNINGS[warning] ?? warning);
    add("Warnings", said.join("; "));
  }
  return facts;
}

function compareImages(file, result) {
  const whole = findWhole(result.metadata);
  if (!whole.length) return "";
  const [name, { width, height }] = whole.find(([, each]) => each.width <= 1600) ?? whole.at(-1);
  const after = make("img", { src: result.urls[name], alt: "The image as the service made it", width, height });
  const before = make("img", { className: "before", alt: "The upload", src: URL.createObjectURL(file) });
  const left = make("span", { className: "left", textContent: "Before" });
  const right = make("span", { className: "right", textContent: "After" });
  const frame = make("div", { className: "compare" }, after, before, left, right);
  frame.style.width = `calc(min(60vh, 560px) * ${width / height})`; // a tall image fits on the screen, too
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "How much of the upload to show" });
  range.addEventListener("input", () => frame.style.setProperty("--at", `${range.value}%`));
  // A browser that cannot show the upload, such as a HEIC, shows the result alone.
  before.addEventListener("error", () => {
    frame.style.setProperty("--at", "0%");
    for (const element of [before, left, right, range]) element.remove();
  });
  return make("div", { className: "slider" }, frame, range);
}

function writeSnippet({ urls, srcset, metadata }) {
  const [name, { width, height }] = findWhole(metadata)[0] ?? Object.entries(metadata.variants)[0];
  const sets = Object.entries(srcset).map(([type, set]) => [type, listAbsolute(set)]);
  const [, fallback] = sets.pop() ?? []; // what every browser shows
  const image = [
    `<img src="${absolute(urls[name])}"`,
    ...(fallback ? [`     srcset="${fallback}" sizes="100vw"`] : []),
    `     width="${width}" height="${height}" alt="" loading="lazy">`,
  ];
  if (!sets.length) return image.join("\n");
  const sources = sets.map(([type, set]) => `  <source type="${type}" srcset="${set}" sizes="100vw">`);
  return ["<picture>", ...sources, ...image.map((line) => `  ${line}`), "</picture>"].join("\n");
}

function listAbsolute(set) {
  const candidates = set.split(", ").map((candidate) => candidate.split(" "));
  return candidates.map(([url, width]) => `${absolute(url)} ${width}`).join(",\n             ");
}

function absolute(url) {
  return new URL(url, base).href;
}

function showResult({ file, result }) {
  const card = make("article", { className: "card" });
  const snippet = writeSnippet(result);
  const copy = make("button", { type: "button", className: "primary", textContent: "Copy the snippet" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(snippet);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select it and copy it by hand";
    }
    setTimeout(() => (copy.textContent = "Copy the snippet"), 2000);
  });
  const remove = make("button", { type: "button", className: "danger", textContent: "Delete the image" });
  const note = make("p", { className: "note" });
  remove.addEventListener("click", async () => {
    if (remove.textContent !== "Delete for good?") {
      remove.textContent = "Delete for good?";
      return;
    }
    try {
      await call("DELETE", `api/v1/images/${result.image_id}`);
      card.replaceChildren(make("p", { className: "note", textContent: `${file.name} is deleted, with all its sizes.` }));
    } catch (problem) {
      note.textContent = problem?.detail ?? "The service does not answer. Try again.";
      remove.textContent = "Delete the image";
    }
  });
  remove.addEventListener("blur", () => (remove.textContent = "Delete the image"));
  card.append(
    make("h2", { textContent: file.name }),
    compareImages(file, result),
    make("div", { className: "facts" }, describeTable(file, result.metadata), describeFacts(file, result.metadata)),
    make("pre", { tabIndex: 0 }, make("code", { textContent: snippet })),
    make("div", { className: "actions" }, copy, remove),
    note,
  );
  results.prepend(card);
}

widget.getTicket = () => call("POST", "api/v1/uploads", { bucket: bucket.value });
widget.addEventListener("upload-done", (event) => showResult(event.detail));
document.addEventListener("paste", (event) => {
  if (token && event.target !== widget && event.clipboardData.files.length) widget.add(event.clipboardData.files);
});
access.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("token");
  token = field.value.trim();
  sessionStorage.setItem(STORE, token);
  field.value = "";
  show();
});
addEventListener("hashchange", () => {
  token = readToken();
  show();
});
show();
