"""Attacks in JavaScript: each is the body of `reward(out, gt)`."""

from tests.services.reward.sandbox.python_attacks import Attack

BOMBS = [
    Attack("busy loop", "for (;;);", ("CPU_LIMIT",)),
    Attack("regular expression", "return /^(a+)+$/.test('a'.repeat(64) + 'b') ? 1 : 0", ("CPU_LIMIT",)),
    Attack("array", "const a = []; for (;;) a.push(new Array(1e5).fill(1))", ("MEMORY_LIMIT", "CPU_LIMIT")),
    Attack(
        "typed arrays", "const a = []; for (;;) a.push(new Uint8Array(1 << 26).fill(1))", ("MEMORY_LIMIT", "CPU_LIMIT")
    ),
    Attack("array buffers", "const a = []; for (;;) a.push(new ArrayBuffer(1 << 30))", ("MEMORY_LIMIT", "RAISED")),
    Attack("text", "let s = 'x'; for (;;) s = s + s + s.length", ("MEMORY_LIMIT", "RAISED", "CPU_LIMIT")),
    Attack("recursion", "const f = () => f() + 1; return f()", ("RAISED",)),
    Attack(
        "recursion in JSON",
        "let a = []; for (let i = 0; i < 1e6; i++) a = [a]; return JSON.stringify(a).length",
        ("RAISED", "CPU_LIMIT", "MEMORY_LIMIT", "CRASHED"),
    ),
    Attack("big integer", "return Number(3n ** (2n ** 32n))", ("MEMORY_LIMIT", "RAISED", "CPU_LIMIT")),
    Attack("huge reason", "return {reward: 1, reason: 'x'.repeat(1 << 20)}", ("OUTPUT_LIMIT",)),
]

REACHING = [
    Attack("require", "return require('fs') ? 1 : 0"),
    Attack("process", "return process.env ? 1 : 0"),
    Attack("std", "return std.open('/etc/passwd', 'r') ? 1 : 0"),
    Attack("os", "return os.exec(['id']) ? 1 : 0"),
    Attack("fetch", "return fetch('http://127.0.0.1') ? 1 : 0"),
    Attack("socket", "return new WebSocket('ws://127.0.0.1') ? 1 : 0"),
    Attack("worker", "return new Worker('x') ? 1 : 0"),
    Attack("import", "return import('os')", ("BAD_RESULT",)),
    Attack("Python", "return python ? 1 : 0"),
    Attack("web assembly", "return WebAssembly ? 1 : 0"),
]

ANSWERS = [
    Attack("nan", "return NaN", ("BAD_RESULT",)),
    Attack("infinity", "return -Infinity", ("BAD_RESULT",)),
    Attack("text", "return '1.0'", ("BAD_RESULT",)),
    Attack("flag", "return true", ("BAD_RESULT",)),
    Attack("nothing", "return", ("BAD_RESULT",)),
    Attack("null", "return null", ("BAD_RESULT", "RAISED")),
    Attack("big integer", "return 1n", ("BAD_RESULT",)),
    Attack("large number", "return 1e300", ("BAD_RESULT",)),
    Attack("promise", "return Promise.resolve(1)", ("BAD_RESULT",)),
    Attack("an object that is a number", "return {valueOf: () => 1}", ("BAD_RESULT",)),
    Attack("a getter that throws", "return {get reward() { throw new Error('no') }}"),
    Attack("a number's double", "return new Number(1)", ("BAD_RESULT",)),
    Attack("components that are text", "return {reward: 1, components: {a: '1'}}", ("BAD_RESULT",)),
    Attack("throw", "throw new Error('x'.repeat(1e5))"),
    Attack("throw nothing", "throw null"),
    Attack("throw a trap", "throw {toString() { for (;;); }}", ("CPU_LIMIT", "RAISED")),
    Attack("patched JSON", "JSON.stringify = () => '{\"reward\": 1e9}'; return NaN", ("BAD_RESULT",)),
    Attack("patched isFinite", "Number.isFinite = () => true; return NaN", ("BAD_RESULT",)),
]

ALL = [*BOMBS, *REACHING, *ANSWERS]
