
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const total = [0, 1].map((label) => data.labels.filter((l) => l === label).length);
let model, steps;

/* Wilson's score interval of a proportion, 95 %. */
const wilson = (k, n) => {
  if (n === 0) return [0, 1];
  const z = 1.959963984540054, p = k / n, shrink = 1 + z * z / n, centre = p + z * z / (2 * n);
  const half = z * Math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2);
  return [Math.max(0, centre - half) / shrink, Math.min(shrink, centre + half) / shrink];
};
const ppv = (sensitivity, specificity, prevalence) => {
  const right = sensitivity * prevalence, wrong = (1 - specificity) * (1 - prevalence);
  return right + wrong > 0 ? right / (right + wrong) : NaN;
};
const show = (value) => Number.isFinite(value) ? value.toFixed(3) : "–";

/* Positives of a class among the images whose score is above the threshold. */
const count = (label, threshold) => data.labels.filter((l, i) => l === label && model.scores[i] > threshold).length;

const item = (i) => {
  const entry = document.createElement("li"), text = document.createElement("span");
  const label = data.labels[i] ? "malignant" : "benign";
  if (data.sprite) {
    const picture = document.createElement("div"), { side, columns } = data.sprite;
    picture.className = "photograph";
    picture.style.width = picture.style.height = `${side}px`;
    picture.style.backgroundPosition = `${-side * (i % columns)}px ${-side * Math.floor(i / columns)}px`;
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Photograph of ${data.ids[i]}`);
    entry.append(picture);
  }
  text.textContent = `${data.ids[i]}: ${label}, score ${model.scores[i].toFixed(3)}`;
  entry.append(text);
  return entry;
};
const fill = (id, places) => at(id).replaceChildren(...places.map(item));

const drawCurve = () => {
  const points = [Infinity, ...steps.slice().reverse(), -1].map((t) =>
    `${100 * count(0, t) / total[0]},${100 - 100 * count(1, t) / total[1]}`);
  at("roc").innerHTML = '<line x1="0" y1="100" x2="100" y2="0"/><polyline/><circle r="2.5"/>';
  at("roc").querySelector("polyline").setAttribute("points", points.join(" "));
  for (const [sensitivity, specificity] of Object.values(data.readers)) {
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cross.setAttribute("d", `M${100 - 100 * specificity - 2.5} ${100 - 100 * sensitivity} h5 m-2.5 -2.5 v5`);
    at("roc").append(cross);
  }
};

const update = () => {
  const threshold = Number(at("threshold").value), prevalence = Number(at("prevalence").value) / 100;
  const hits = count(1, threshold), alarms = count(0, threshold), missed = total[1] - hits;
  const sensitivity = hits / total[1], specificity = 1 - alarms / total[0];
  const sides = [wilson(hits, total[1]), wilson(total[0] - alarms, total[0])];
  const rows = [
    ["Missed", `${missed} of ${total[1]}`, ""],
    ["False alarms", `${alarms} of ${total[0]}`, ""],
    ["Sensitivity", show(sensitivity), sides[0]],
    ["Specificity", show(specificity), sides[1]],
    ["PPV", show(ppv(sensitivity, specificity, prevalence)),
      [0, 1].map((end) => ppv(sides[0][end], sides[1][end], prevalence))],
  ];
  at("counts").replaceChildren(...rows.map(([name, value, ends]) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row"; head.textContent = name;
    const cells = [value, ends ? `${show(ends[0])} to ${show(ends[1])}` : ""].map((text) => {
      const cell = document.createElement("td"); cell.className = "num"; cell.textContent = text; return cell;
    });
    row.append(head, ...cells);
    return row;
  }));
  const circle = at("roc").querySelector("circle");
  circle.setAttribute("cx", 100 * (1 - specificity));
  circle.setAttribute("cy", 100 - 100 * sensitivity);
  at("point").textContent = `ROC curve: false alarm rate to the right, sensitivity upwards. The point: sensitivity ` +
    `${show(sensitivity)}, specificity ${show(specificity)}.` +
    Object.keys(data.readers).map((reader) => ` The cross: ${reader}.`).join("");
  const said = `Threshold ${threshold.toFixed(3)}: ${missed} missed, ${alarms} false alarms.`;
  at("said").textContent = said;
  at("slider").setAttribute("aria-valuetext", said);
  const places = data.labels.map((_, i) => i).sort((a, b) => model.scores[a] - model.scores[b]);
  fill("missed", places.filter((i) => data.labels[i] && !(model.scores[i] > threshold)));
  fill("alarms", places.filter((i) => !data.labels[i] && model.scores[i] > threshold).reverse());
};

const moveSlider = () => {
  const threshold = Number(at("threshold").value);
  at("slider").value = steps.filter((s) => s <= threshold).length - 1;
};
const choose = () => {
  model = data.models[at("model").selectedIndex];
  steps = [0, ...new Set(model.scores)].sort((a, b) => a - b);
  at("slider").max = steps.length - 1;
  at("threshold").value = model.threshold;
  moveSlider(); drawCurve(); update();
  fill("all", data.labels.map((_, i) => i));
};

at("model").replaceChildren(...data.models.map((each) => new Option(each.name)));
at("prevalence").value = (100 * total[1] / data.labels.length).toFixed(1);
if (data.sprite) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`.photograph { background-image: url("${data.sprite.source}"); }`);
  document.adoptedStyleSheets = [sheet];
}
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
at("model").addEventListener("change", choose);
at("slider").addEventListener("input", () => { at("threshold").value = steps[at("slider").value]; update(); });
at("threshold").addEventListener("input", () => { moveSlider(); update(); });
at("prevalence").addEventListener("input", update);
choose();
