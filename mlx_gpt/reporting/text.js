const HEAT = [1, 2, 3, 4, 6, 8, 11]; // below so many bits, the next class
const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(1)} %`);
const heat = (bits) => (bits === null ? HEAT.length : HEAT.filter((limit) => bits >= limit).length);

// the passage: a slider over stages, a token at a time by pointer or arrow keys
const passage = at("passage");
let chosen = -1;
const sum = (bits) => (bits.includes(null) ? Infinity : bits.reduce((a, b) => a + b, 0));
const shown = (bits) => (Number.isFinite(bits) ? bits.toFixed(0) : "∞");

function showPassage() {
  const run = told.runs[at("stage").value];
  const bits = run.surprise.bits;
  const parts = run.surprise.pieces.map((piece, token) => {
    const span = made("span", piece, `h${heat(bits[token])}`);
    span.title = cost(bits[token]);
    return span;
  });
  passage.replaceChildren(...parts);
  const total = sum(bits);
  const words = `${named(run)}: ${shown(total)} bits, ${Number.isFinite(total) ? (total / told.bytes).toFixed(3) : "∞"} per byte`;
  at("stage-name").textContent = words;
  at("stage").setAttribute("aria-valuetext", words);
  at("stage-remembers").textContent = run.remembers ? `It remembers ${run.remembers}.` : "";
  [...at("totals").tBodies[0].rows].forEach((row, other) => row.classList.toggle("chosen", other === Number(at("stage").value)));
  if (chosen >= 0) choose(Math.min(chosen, parts.length - 1));
}
const cost = (bits) => (bits === null ? "impossible" : `${bits.toFixed(2)} bits, probability ${(2 ** -bits).toPrecision(2)}`);

function choose(token) {
  const spans = passage.children;
  if (!spans[token]) return;
  if (spans[chosen]) spans[chosen].classList.remove("at");
  chosen = token;
  spans[token].classList.add("at");
  const { pieces, bits } = told.runs[at("stage").value].surprise;
  const others = told.runs.filter((run) => run.surprise.pieces[token] === pieces[token] && run.surprise.pieces.length === pieces.length);
  const each = others.map((run) => `${run.stage || run.name}: ${run.surprise.bits[token] === null ? "∞" : run.surprise.bits[token].toFixed(1)}`);
  at("token").textContent = `“${pieces[token].replace(/\n/g, "↵")}”: ${cost(bits[token])}. Bits by stage: ${each.join(", ")}.`;
}
passage.addEventListener("pointerover", (event) => {
  const token = [...passage.children].indexOf(event.target);
  if (token >= 0) choose(token);
});
passage.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(passage.children.length - 1, chosen + by)));
  passage.children[chosen].scrollIntoView({ block: "nearest" });
});

const limits = [0, ...HEAT];
limits.forEach((low, place) => at("heat-legend").append(made("span", place + 1 < limits.length ? `${low}–${limits[place + 1]}` : `${low} bits and more`, `h${place}`)));
const totals = at("totals");
totals.append(made("thead"), made("tbody"));
const titles = document.createElement("tr");
["stage", "bits", "bits/byte"].forEach((words) => { const head = made("th", words); head.scope = "col"; titles.append(head); });
totals.tHead.append(titles);
told.runs.forEach((run) => {
  const row = document.createElement("tr");
  const head = made("th", named(run));
  head.scope = "row";
  const total = sum(run.surprise.bits);
  row.append(head, made("td", shown(total)), made("td", Number.isFinite(total) ? (total / told.bytes).toFixed(3) : "∞"));
  totals.tBodies[0].append(row);
});
at("stage").max = told.runs.length - 1;
at("stage").value = told.runs.length - 1;
at("stage").addEventListener("input", showPassage);
showPassage();

// samples: one prompt and seed, all stages
told.asked.prompts.forEach((prompt, place) => {
  const short = prompt.replace(/\s+/g, " ");
  const option = made("option", short === "" ? "none" : short.length > 60 ? short.slice(0, 59) + "…" : short);
  option.value = place;
  at("prompt").append(option);
});
told.asked.seeds.forEach((seed) => at("seed").append(made("option", String(seed))));

function showSamples() {
  const prompt = Number(at("prompt").value), seed = Number(at("seed").value);
  const cards = told.runs.map((run) => {
    const sample = run.samples.find((each) => each.prompt === prompt && each.seed === seed);
    const card = document.createElement("article");
    const novelty = sample.copied === null ? "" : `${percent(1 - sample.copied)} of its 8-grams are new`;
    const text = made("p", "", "text");
    text.tabIndex = 0;
    if (told.asked.prompts[prompt]) text.append(made("span", told.asked.prompts[prompt], "given"));
    const letters = [...sample.text];
    let end = 0;
    sample.spans.forEach(([first, last]) => {
      text.append(letters.slice(end, first).join(""), made("mark", letters.slice(first, last).join("")));
      end = last;
    });
    text.append(letters.slice(end).join(""));
    card.append(made("h3", named(run)), made("span", novelty, "quiet"), text);
    return card;
  });
  at("sample-cards").replaceChildren(...cards);
}
["prompt", "seed"].forEach((id) => at(id).addEventListener("change", showSamples));
showSamples();
