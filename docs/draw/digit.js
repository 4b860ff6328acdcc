// Strokes, and the image that they make in MNIST's form.
"use strict";

globalThis.stnDraw = { packed: {}, columns: [] };

(() => {
  const PAD = 100; // strokes are lists of points [x, y] from 0 to PAD
  const SIDE = 28; // of the image, pixels
  const BOX = 20; // the longer side of the ink
  const PEN = 3; // gives the ink as many pixels as MNIST's digits have on average
  const MASS = 14.5; // where MNIST has the centre of mass, pixels from the edge
  const FINE = 8; // the image is drawn larger by this, then averaged

  const SAMPLES = [
    ["M54 9 C30 6 20 30 20 52 C20 76 31 92 49 92 C70 92 81 72 80 48 C79 24 70 11 52 9"],
    ["M57 9 C54 36 49 64 45 91"],
    ["M21 27 C27 9 46 4 60 9 C77 15 79 32 67 48 C55 64 36 80 20 91 C42 87 62 88 83 88"],
    ["M24 15 C40 4 69 5 71 23 C72 39 56 46 42 47 C60 47 79 54 77 72 C75 92 46 97 22 85"],
    ["M31 10 C27 26 23 40 21 53 C41 55 62 53 83 49", "M66 13 C64 38 62 66 58 93"],
    ["M75 10 C60 12 48 12 35 12 C33 24 29 35 27 46 C47 37 76 43 76 66 C76 92 42 97 22 85"],
    ["M66 8 C40 22 25 46 24 68 C24 86 38 94 52 93 C68 92 77 81 74 68 C71 54 56 51 44 55 C34 58 27 64 25 72"],
    ["M20 14 C40 16 62 14 80 11 C68 34 54 62 44 93"],
    ["M70 18 C58 4 28 8 30 26 C32 46 74 52 72 74 C70 94 30 96 28 76 C26 56 66 44 70 18"],
    ["M72 27 C67 9 44 6 32 18 C20 32 26 52 44 52 C58 52 69 41 72 27 C71 50 66 74 58 93"],
  ].map((paths) => paths.map(points));

  // The points along a curve, about one apart.
  function points(path) {
    const curve = document.createElementNS("http://www.w3.org/2000/svg", "path");
    curve.setAttribute("d", path);
    const length = curve.getTotalLength();
    const steps = Math.ceil(length);
    return Array.from({ length: steps + 1 }, (_, i) => {
      const { x, y } = curve.getPointAtLength((i / steps) * length);
      return [x, y];
    });
  }

  // Strokes on a canvas whose pixels are place([x, y]).
  function draw(context, strokes, place, width) {
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "#fff";
    for (const stroke of strokes) {
      context.beginPath();
      context.moveTo(...place(stroke[0]));
      // A line of no length is a dot.
      for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) context.lineTo(...place(point));
      context.stroke();
    }
  }

  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE * FINE;
  const fine = canvas.getContext("2d", { willReadFrequently: true });

  // Float32Array(SIDE * SIDE) in [0, 1]: the ink in a box of BOX pixels, its centre of mass at MASS, as MNIST was made.
  function image(strokes) {
    const all = strokes.flat();
    if (!all.length) return new Float32Array(SIDE * SIDE);
    const [left, right] = extent(all.map(([x]) => x));
    const [top, bottom] = extent(all.map(([, y]) => y));
    const scale = (BOX - PEN) / Math.max(right - left, bottom - top, PAD / 10); // a dot stays a dot
    let x = SIDE / 2 - (scale * (left + right)) / 2;
    let y = SIDE / 2 - (scale * (top + bottom)) / 2;
    const [massX, massY] = mass(paint(strokes, scale, x, y));
    return paint(strokes, scale, x + MASS - massX, y + MASS - massY);
  }

  function paint(strokes, scale, x, y) {
    fine.clearRect(0, 0, canvas.width, canvas.height);
    draw(fine, strokes, ([u, v]) => [(scale * u + x) * FINE, (scale * v + y) * FINE], PEN * FINE);
    const { data } = fine.getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Float32Array(SIDE * SIDE);
    for (let row = 0; row < canvas.height; row++) {
      for (let column = 0; column < canvas.width; column++) {
        const at = Math.floor(row / FINE) * SIDE + Math.floor(column / FINE);
        pixels[at] += data[4 * (row * canvas.width + column) + 3]; // of white ink, how opaque it is
      }
    }
    return pixels.map((sum) => sum / (255 * FINE * FINE));
  }

  function extent(values) {
    return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  }

  function mass(pixels) {
    let sum = 0;
    let x = 0;
    let y = 0;
    pixels.forEach((ink, i) => {
      sum += ink;
      x += ink * ((i % SIDE) + 0.5);
      y += ink * (Math.floor(i / SIDE) + 0.5);
    });
    return [x / sum, y / sum];
  }

  Object.assign(stnDraw, { PAD, SAMPLES, SIDE, draw, image });
})();
