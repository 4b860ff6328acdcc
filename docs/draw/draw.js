// The page: what is drawn and set goes to the networks, and what they make of it is shown.
"use strict";

(() => {
  const { PAD, SAMPLES, SIDE, columns, draw, image, load, rows, run, show } = stnDraw;
  if (!columns.length) return; // the site was built without the networks: its sentence stays

  const SLIDERS = [
    { key: "angle", label: "Turn", unit: "°", min: -180, max: 180, step: 1, rest: 0 },
    { key: "size", label: "Size", unit: "", min: 0.5, max: 1.5, step: 0.01, rest: 1 },
    { key: "x", label: "Move right", unit: " px", min: -12, max: 12, step: 0.1, rest: 0 },
    { key: "y", label: "Move down", unit: " px", min: -12, max: 12, step: 0.1, rest: 0 },
    { key: "bend", label: "Bend", unit: "", min: 0, max: 2, step: 0.05, rest: 0 },
  ];
  const state = {
    column: columns[0],
    network: columns[0].networks[0],
    strokes: SAMPLES[4],
    isSample: true, // a stroke replaces a sample, and is added to a drawing
    pose: { angle: 40, size: 1, x: 0, y: 0, bend: 0 },
    noise: [], // the shift of each corner or point of P and E, standard normal
  };

  const root = document.getElementById("draw");
  root.innerHTML = `
    <div class="draw-choices">
      <fieldset><legend>Digits of the training</legend><div id="draw-columns"></div></fieldset>
      <fieldset><legend>Spatial transformer</legend><div id="draw-networks"></div></fieldset>
    </div>
    <div class="draw-board">
      <figure class="draw-pad">
        <figcaption>Draw a digit<span>mouse or finger</span></figcaption>
        <canvas width="560" height="560" role="img"
          aria-label="Drawing pad, for mouse or finger. The sample buttons put a digit here."></canvas>
        <div class="draw-samples" role="group" aria-label="Sample digits"></div>
      </figure>
      <figure class="draw-input">
        <figcaption>What the networks see<span id="draw-pose"></span></figcaption>
        <div class="draw-frame"><canvas role="img"></canvas><svg aria-hidden="true"></svg></div>
      </figure>
      <figure class="draw-output">
        <figcaption>Straightened<span>by the transformer</span></figcaption>
        <div class="draw-frame"><canvas role="img"></canvas><svg aria-hidden="true"></svg></div>
      </figure>
      <div class="draw-sliders" role="group" aria-label="Distortion">
        <div></div>
        <p><span class="draw-band"></span>range of the training</p>
        <button type="button" id="draw-random">At random, as in training</button>
        <button type="button" id="draw-upright">Upright</button>
      </div>
      <table class="draw-classes">
        <caption>Probability of each class, %</caption>
        <thead><tr><th scope="col"><span class="draw-hidden">Class</span></th>
          <th scope="col" id="draw-st">ST-CNN<b></b><small></small></th>
          <th scope="col" id="draw-cnn">CNN<b></b><small></small></th></tr></thead>
        <tbody>${rows()}</tbody>
      </table>
    </div>
    <p class="draw-note" id="draw-problem" role="alert" hidden></p>
    <p class="draw-hidden" id="draw-said" role="status"></p>`;
  const $ = (selector) => root.querySelector(selector);

  // ---- compute: one update after another; what changes while one runs makes one more

  let wanted = false;

  async function update() {
    wanted = true;
    if (stnDraw.busy) return;
    stnDraw.busy = true;
    while (wanted) {
      wanted = false;
      const begun = performance.now();
      try {
        const shown = await compute();
        show(root, shown);
        stnDraw.shown = { ...shown, milliseconds: performance.now() - begun, at: performance.now() };
        $("#draw-problem").hidden = true;
      } catch (error) {
        $("#draw-problem").textContent = `The networks cannot be run here. ${error.message ?? error}`;
        $("#draw-problem").hidden = false;
      }
    }
    stnDraw.busy = false;
  }

  async function compute() {
    const { column, network, strokes, pose, noise } = state;
    const digit = image(strokes);
    const inputs = {
      images: [digit, [1, 1, SIDE, SIDE]],
      pose: [Float32Array.of(pose.angle, pose.size, pose.x, pose.y), [1, 4]],
    };
    if (column.bends) {
      inputs.bend = [Float32Array.from(noise, (value) => value * pose.bend * column.std), [1, column.bends]];
    }
    const distortion = `${column.experiment}/distortion`;
    await Promise.all([distortion, network.file, ...(column.cnn ? [column.cnn.file] : [])].map(load));
    const { image: distorted } = await run(distortion, inputs);
    const images = { images: [distorted.data, distorted.dims] };
    const st = await run(network.file, images);
    const cnn = column.cnn && (await run(column.cnn.file, images));
    return { column, network, drawn: strokes.length > 0, inputs, image: distorted, st, cnn };
  }

  // ---- choices

  function radios(box, name, options, chosen, choose) {
    box.replaceChildren(
      ...options.map((option) => {
        const label = document.createElement("label");
        label.innerHTML = `<input type="radio" name="${name}"><span><b></b> <small></small></span>`;
        label.querySelector("b").textContent = option.letter ?? option.title;
        label.querySelector("small").textContent = option.letter ? option.title : "";
        const input = label.firstElementChild;
        input.value = option.name ?? option.letter;
        input.checked = option === chosen;
        input.onchange = () => choose(option);
        return label;
      }),
    );
  }

  function chooseColumn(column) {
    const { name } = state.network;
    state.column = column;
    state.network = column.networks.find((network) => network.name === name) ?? column.networks[0];
    showChoices();
    random();
  }

  function chooseNetwork(network) {
    state.network = network;
    update();
  }

  function showChoices() {
    radios($("#draw-networks"), "network", state.column.networks, state.network, chooseNetwork);
    $("[data-key=bend]").hidden = !state.column.bends;
  }

  // ---- sliders

  // The range of the training, [low, high]; how far a digit moves depends on its size.
  function trained(key) {
    const { angle, size, shifted, side } = state.column;
    const room = shifted ? Math.max(0, (side - SIDE * state.pose.size) / 2) : 0;
    return { angle, size, x: [-room, room], y: [-room, room], bend: [1, 1] }[key];
  }

  function set(pose) {
    Object.assign(state.pose, pose);
    for (const { key, unit, min, max, step } of SLIDERS) {
      const value = state.pose[key];
      const row = $(`[data-key=${key}]`);
      const input = row.querySelector("input");
      const [low, high] = trained(key);
      const beyond = value < low - step / 2 || value > high + step / 2;
      const text = `${value.toFixed(String(step).split(".")[1]?.length ?? 0)}${unit}`;
      input.value = value;
      input.ariaValueText = beyond ? `${text}, beyond the range of the training` : text;
      row.querySelector("output").textContent = text.replace("-", "−");
      row.classList.toggle("draw-beyond", beyond);
      row.style.setProperty("--low", (low - min) / (max - min));
      row.style.setProperty("--high", (high - min) / (max - min));
    }
    update();
  }

  const uniform = ([low, high]) => low + (high - low) * Math.random();
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

  function random() {
    const { angle, size, bends } = state.column;
    state.noise = Array.from({ length: bends }, normal);
    state.pose.size = uniform(size); // decides how far the digit may move
    set({ angle: uniform(angle), x: uniform(trained("x")), y: uniform(trained("y")), bend: bends ? 1 : 0 });
  }

  function addSliders() {
    for (const { key, label, min, max, step } of SLIDERS) {
      const row = document.createElement("div");
      row.dataset.key = key;
      row.innerHTML = `<label for="draw-${key}">${label}</label><output for="draw-${key}"></output>
        <div class="draw-track"><span class="draw-band"></span>
        <input type="range" id="draw-${key}" min="${min}" max="${max}" step="${step}"></div>`;
      row.querySelector("input").oninput = ({ target }) => set({ [key]: Number(target.value) });
      $(".draw-sliders > div").append(row);
    }
    $("#draw-random").onclick = random;
    $("#draw-upright").onclick = () => set(Object.fromEntries(SLIDERS.map(({ key, rest }) => [key, rest])));
  }

  // ---- the pad

  function redraw() {
    const { canvas } = pad;
    const scale = canvas.width / PAD;
    pad.clearRect(0, 0, canvas.width, canvas.height);
    draw(pad, state.strokes, ([x, y]) => [x * scale, y * scale], 9 * scale);
    update();
  }

  function put(strokes, isSample) {
    Object.assign(state, { strokes, isSample });
    redraw();
  }

  function addPad() {
    const { canvas } = pad;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * PAD, ((event.clientY - box.top) / box.height) * PAD];
    };
    canvas.onpointerdown = (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      put([...(state.isSample ? [] : state.strokes), [place(event)]], false);
    };
    canvas.onpointermove = (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      state.strokes.at(-1).push(...(moves.length ? moves : [event]).map(place));
      redraw();
    };
    SAMPLES.forEach((strokes, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.ariaLabel = `Sample digit ${k}`;
      button.onclick = () => put(strokes, true);
      const picture = document.createElement("canvas");
      picture.width = picture.height = PAD;
      draw(picture.getContext("2d"), strokes, (point) => point, 9);
      button.append(picture);
      $(".draw-samples").append(button);
    });
    const clear = document.createElement("button");
    clear.type = "button";
    clear.textContent = "Clear";
    clear.onclick = () => put([], false);
    $(".draw-samples").append(clear);
  }

  const pad = $(".draw-pad canvas").getContext("2d");
  addPad();
  addSliders();
  radios($("#draw-columns"), "column", columns, state.column, chooseColumn);
  showChoices();
  redraw();
  set({});
})();
