// The exported networks, run by onnxruntime-web in the page.
"use strict";

(() => {
  // The scripts of the build stand beside this one.
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const sessions = new Map(); // name -> promise of a session
  let runtime; // promise

  function script(file) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = folder + file;
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${file} cannot be read.`));
      document.head.append(element);
    });
  }

  // The content of a packed file. A page opened from disk may not fetch files, but it may load scripts.
  async function unpack(name) {
    if (!stnDraw.packed[name]) await script(`${name}.js`);
    const packed = stnDraw.packed[name];
    delete stnDraw.packed[name];
    const zipped = Uint8Array.fromBase64?.(packed) ?? Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function start() {
    runtime ??= (async () => {
      const [wasm, loader] = await Promise.all([
        unpack("onnxruntime.wasm"),
        unpack("onnxruntime.mjs"),
        script("ort.wasm.min.js"),
      ]);
      const { wasm: options } = ort.env;
      options.numThreads = 1; // threads need headers that a plain server does not send
      options.wasmBinary = wasm;
      options.wasmPaths = { mjs: URL.createObjectURL(new Blob([loader], { type: "text/javascript" })) };
    })();
    return runtime;
  }

  // A session, made once.
  function load(name) {
    if (!sessions.has(name)) {
      const made = Promise.all([unpack(name), start()]).then(([file]) => ort.InferenceSession.create(file));
      sessions.set(name, made);
    }
    return sessions.get(name);
  }

  // Runs a network on { name: [Float32Array, shape] } and gives { name: tensor }, a tensor with data and dims.
  async function run(name, inputs) {
    const network = await load(name);
    const tensors = Object.entries(inputs).map(([key, [data, shape]]) => [key, new ort.Tensor("float32", data, shape)]);
    return network.run(Object.fromEntries(tensors));
  }

  Object.assign(stnDraw, { load, run });
})();
