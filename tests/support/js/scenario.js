// What a client in JavaScript does in the tests, with whatever WebSocket it is given: npm's ws, or a browser's own.
// The other person of the dialog answers twice (tests/protocol/test_real_clients.py), while this one is away or not.

function session(WebSocket, url, subprotocol) {
  const socket = new WebSocket(url, [subprotocol]);
  socket.binaryType = "arraybuffer";
  const pushes = [];
  let wake = () => {};
  const closed = new Promise((resolve) => {
    socket.onclose = (event) => {
      resolve({ code: event.code, reason: String(event.reason), clean: event.wasClean });
      wake();
    };
  });
  socket.onmessage = (event) => {
    pushes.push(typeof event.data === "string" ? JSON.parse(event.data) : new Uint8Array(event.data));
    wake();
  };
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("the handshake failed"));
  });
  // The first push, from `from` on, that fits.
  async function expect(fits, from = 0) {
    for (let at = from; ; at++) {
      while (at >= pushes.length) {
        if (socket.readyState > 1) throw new Error("closed while waiting; so far " + JSON.stringify(pushes));
        await new Promise((resolve) => (wake = resolve));
      }
      if (fits(pushes[at])) return pushes[at];
    }
  }
  const send = (body) => socket.send(JSON.stringify(body));
  return { socket, pushes, closed, opened, expect, send };
}

// Returns what was seen; throws where the protocol's page is not kept.
async function scenario(WebSocket, { url, token, device, peer, binaryHello }) {
  const events = (pushes) => pushes.filter((push) => push.op === "event");
  const hello = { op: "hello", token, device, protocol: 1, client: "scenario.js" };

  const first = session(WebSocket, url, "gonets.v1.json");
  await first.opened;
  first.send(hello);
  const live = await first.expect((push) => push.op === "live");
  first.send({ op: "publish", counter: 1, user: peer, text: "привет, 你好, 👋" });
  const receipt = await first.expect((push) => push.op === "receipt");
  const own = await first.expect((push) => push.op === "event" && push.sequence === receipt.sequence);
  first.socket.close(1000, "bye");
  const bye = await first.closed;

  const before = live.positions[0];
  const second = session(WebSocket, url, "gonets.v1.json");
  await second.opened;
  second.send({ ...hello, positions: [{ ...before, sequence: own.sequence }] });
  second.send({ op: "publish", counter: 1, user: peer, text: "привет, 你好, 👋" });
  const repeat = await second.expect((push) => push.op === "receipt");
  const text = (push) => new TextDecoder().decode(Uint8Array.from(atob(push.payload), (c) => c.charCodeAt(0)));
  await second.expect((push) => push.op === "event" && push.type === "message" && text(push) === "answer 2");
  const large = { op: "publish", counter: 2, user: peer, text: "x".repeat(60000) };
  second.send(large);
  const echo = await second.expect((push) => push.op === "event" && push.counter === 2 && push.sender !== peer);

  const third = session(WebSocket, url, "gonets.v1.json"); // the same device: the second is replaced
  await third.opened;
  third.send(hello);
  const replaced = await second.closed;
  await third.expect((push) => push.op === "live");
  third.socket.send("no JSON");
  const refused = await third.closed;

  const binary = session(WebSocket, url, "gonets.v1.msgpack");
  await binary.opened;
  binary.socket.send(Uint8Array.from(atob(binaryHello), (c) => c.charCodeAt(0)));
  const welcome = await binary.expect((push) => push[1] === 3);
  binary.socket.close();
  const plain = await binary.closed;

  return {
    subprotocols: [first.socket.protocol, binary.socket.protocol],
    extensions: first.socket.extensions,
    receipts: [receipt, repeat],
    payload: text(own),
    first: events(first.pushes).map((push) => push.sequence),
    second: events(second.pushes).map((push) => push.sequence),
    large: echo.payload.length,
    welcome: Array.from(welcome.slice(0, 2)),
    closes: [bye, replaced, refused, plain],
  };
}
