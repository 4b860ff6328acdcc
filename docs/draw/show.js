// What the networks made of a digit, as pictures, lines, numbers and sentences.
"use strict";

(() => {
  const CLASSES = [...Array(10).keys()];
  const SVG = "http://www.w3.org/2000/svg";
  const NETWORKS = [
    ["st", "ST-CNN"],
    ["cnn", "CNN"],
  ];
  let silence; // timer: sentences are said when the reader rests

  const percent = (share) => (100 * share).toFixed(1);
  const whole = (value) => String(Math.round(value) || 0).replace("-", "−");

  function softmax(logits) {
    const most = Math.max(...logits);
    const powers = Array.from(logits, (value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((value) => value / sum);
  }

  function rows() {
    const cell = (key) => `<td class="${key}"><i></i><span></span></td>`;
    return CLASSES.map((k) => `<tr><th scope="row">${k}</th>${NETWORKS.map(([key]) => cell(key)).join("")}</tr>`).join("");
  }

  // What draw.js computed, into the elements below root.
  function show(root, { column, network, drawn, image, st, cnn }) {
    const $ = (selector) => root.querySelector(selector);
    picture($(".draw-input canvas"), image);
    picture($(".draw-output canvas"), st.warped);
    outline($(".draw-input svg"), windowLines(st.window));
    outline($(".draw-output svg"), frameLines(network.lattice));
    const [angle, scale] = st.pose.data;
    $("#draw-pose").textContent = `window: ${whole(angle)}°, size ${scale.toFixed(2)}`;
    $(".draw-input canvas").ariaLabel =
      `The image, ${column.side} by ${column.side} pixels. The window on it is turned by ${whole(angle)} degrees ` +
      `clockwise and ${scale.toFixed(2)} times as large as the image.`;
    $(".draw-output canvas").ariaLabel = "The content of the window, straightened.";

    const results = { st: [network, st], cnn: [column.cnn, cnn] };
    const said = NETWORKS.map(([key, title]) => {
      const [about, outputs] = results[key];
      const chances = drawn && outputs ? softmax(outputs.logits.data) : null;
      const best = chances?.indexOf(Math.max(...chances));
      const head = $(`#draw-${key}`);
      head.querySelector("b").textContent = best ?? "–";
      head.querySelector("small").textContent = about
        ? `${about.error.toFixed(2)} % test error`
        : `none trained on ${column.letter} is published`;
      root.querySelectorAll(`td.${key}`).forEach((cell, k) => {
        cell.firstElementChild.hidden = !chances;
        cell.style.setProperty("--share", chances ? chances[k] : 0);
        cell.lastElementChild.textContent = chances ? percent(chances[k]) : "";
        cell.classList.toggle("best", k === best);
      });
      return chances ? `${title}: ${best}, ${percent(chances[best])} percent.` : "";
    });
    clearTimeout(silence);
    silence = setTimeout(() => ($("#draw-said").textContent = said.join(" ")), 700);
  }

  // A tensor (1, 1, side, side) in [0, 1], white on black.
  function picture(canvas, { data, dims }) {
    const side = dims.at(-1);
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(side, side);
    data.forEach((value, i) => pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
    context.putImageData(pixels, 0, 0);
  }

  // A tensor (1, lines, points, 2) as lists of points [x, y].
  function windowLines({ data, dims: [, lines, points] }) {
    const point = (at) => [data[2 * at], data[2 * at + 1]];
    return [...Array(lines).keys()].map((line) => [...Array(points).keys()].map((k) => point(line * points + k)));
  }

  // The same lines in the transformer's output.
  function frameLines([rows, columns]) {
    const places = (count) => [...Array(count).keys()].map((k) => (2 * k) / (count - 1) - 1);
    return [
      ...places(rows).map((y) => [[-1, y], [1, y]]),
      ...places(columns).map((x) => [[x, -1], [x, 1]]),
    ]; // prettier-ignore
  }

  // Lines from -1 to 1 between the edges of the picture; the first, the upper edge of the output, is thick.
  function outline(svg, lines) {
    svg.setAttribute("viewBox", "-1 -1 2 2");
    svg.replaceChildren(
      ...lines.map((points) => {
        const line = document.createElementNS(SVG, "polyline");
        line.setAttribute("points", points.map((point) => point.map((value) => value.toFixed(4)).join()).join(" "));
        return line;
      }),
    );
  }

  Object.assign(stnDraw, { rows, show });
})();
