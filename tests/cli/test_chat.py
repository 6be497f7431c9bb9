#!/usr/bin/env python3
"""chat on a terminal: prompts and editing on it, answers on standard output, Ctrl-C and Ctrl-D, the history file."""
import os, pty, select, shutil, signal, subprocess, sys, tempfile, termios, time

PROGRAM, HERE = os.path.abspath(os.environ.get("DEEPSEEK", "./deepseek")), os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden", "v1-gqa")
# no end of text, no line end
ENDLESS = ["--logit-bias", "106=-inf", "--logit-bias", "1=-inf", "--logit-bias", "0=-inf"]
passed = failed = 0


def check(what, ok, figure=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAIL  {what} {figure!r}")


class Terminal:
    """The program on a terminal of its own; `output` (a path) takes standard output off it."""

    def __init__(self, *arguments, output=None, locale="C.UTF-8"):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", LC_ALL=locale)
            if output:
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.execv(PROGRAM, [PROGRAM, "chat", *arguments])

    def until(self, what, seconds=120):
        """What appears up to `what`; the rest is kept for the next call."""
        end = time.time() + seconds
        while what not in self.seen and time.time() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    got = os.read(self.fd, 65536)
                except OSError:
                    break
                if not got:
                    break
                self.seen += got
        at = self.seen.find(what)
        at = len(self.seen) if at < 0 else at + len(what)
        found, self.seen = self.seen[:at], self.seen[at:]
        return found

    def ready(self):
        """The editor prints its prompt before it takes the terminal over, and what is typed in between the terminal
        would
        edit."""
        end = time.time() + 60
        while termios.tcgetattr(self.fd)[3] & termios.ICANON and time.time() < end:
            time.sleep(0.005)

    def send(self, text, what=b"> "):
        self.ready()
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())
        return self.until(what)

    def interrupt(self):
        os.write(self.fd, b"\x03")
        return self.until(b"> ")

    def leave(self):
        self.ready()
        os.write(self.fd, b"\x04")

    def code(self):
        self.until(b"\0nothing holds this", 1)
        for _ in range(200):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)
        return None


with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    model = at("model")
    os.mkdir(model)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(os.path.join(GOLDEN, name), model)
    for name in os.listdir(os.path.join(HERE, "data", "characters")):
        shutil.copy(os.path.join(HERE, "data", "characters", name), model)
    generated = lambda prompt, n, *more: subprocess.run(
        [PROGRAM, "generate", model, "-q", "-p", prompt, "-n", str(n), *ENDLESS, *more],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    ).stdout

    # Answers, and only they, on standard output; editing; Ctrl-D.
    t = Terminal(model, "-n", "12", *ENDLESS, output=at("out"))
    start = t.until(b"> ")
    check(
        "the beginning says what plain continuation is",
        b"it continues text. What you type is continued as it stands" in start,
        start,
    )
    t.send("Oncf\x7fe\r")
    t.send("é中€\x02\x02ß\r")                      # two characters back, then one more
    t.send("/undo\r", b"remain.")
    t.send("\x1b[A\x1b[A\r")                       # two lines up: é and so on again
    t.send('"""\r', b". ")
    t.send("one\r", b". ")
    t.send("/quit\r", b". ")
    t.send('"""\r')
    t.send("/show\r", b"tokens\r\n")
    t.until(b"> ")
    t.leave()
    check("Ctrl-D leaves", t.code() == 0)
    lines = open(at("out"), "rb").read().decode().split("\n")
    first = generated("Once", 12).decode().rstrip("\n")
    check("an edited line", lines[0] == first, lines)
    check("editing whole characters", lines[-3].startswith("Once" + first + "éß中€"), lines)
    check("a line of the history", lines[1] == lines[2], lines)
    check("a block of lines", "one" == lines[-3][-3:] and lines[-2].startswith("/quit") and lines[-1] == "", lines)
    check("prompts are not on standard output", not any(line.startswith(("> ", ". ")) for line in lines), lines)
    check("no history file", sorted(os.listdir(tmp)) == ["model", "out"], os.listdir(tmp))

    # /edit gives the last message to be changed.
    t = Terminal(model, "-n", "12", *ENDLESS, output=at("out"))
    t.until(b"> ")
    t.send("Oncé\r")
    t.send("/edit\r", "Oncé".encode())
    t.send("\x7fe\r")
    t.leave()
    check("/edit: leaves", t.code() == 0)
    check(
        "/edit: the changed message's answer",
        open(at("out"), "rb").read().decode().split("\n")[1] == first,
        open(at("out"), "rb").read(),
    )

    # Ctrl-C in an answer keeps what was said; at the prompt it leaves. And all this once more: the second Ctrl-C is as
    # gentle as the first.
    t = Terminal(model, "-n", "100000000", *ENDLESS, output=at("out"))
    t.until(b"> ")
    for _ in range(2):
        size = os.path.getsize(at("out"))
        t.ready()
        os.write(t.fd, b"Once\r")
        for _ in range(3000):
            if os.path.getsize(at("out")) > size:
                break
            time.sleep(0.02)
        check("Ctrl-C in an answer", b"(interrupted;" in t.interrupt())
    said = open(at("out"), "rb").read().decode()
    t.send("/show\r", b" tokens\r\n")
    shown = open(at("out"), "rb").read().decode()[len(said):]
    answers = said.split("\n")
    whole = generated("Once", 200).decode().rstrip("\n")
    check(
        "the interrupted answer is the beginning of the whole",
        len(answers) == 3 and answers[0] and (whole.startswith(answers[0][:200]) or answers[0].startswith(whole)),
        answers[0][:100],
    )
    check(
        "what was said is kept",
        shown == "Once" + answers[0] + "Once" + answers[1] + "\n",
        (len(shown), len(answers[0])),
    )
    t.ready()
    os.write(t.fd, b"unfinished\x03")
    check("Ctrl-C at the prompt leaves", t.code() == 0)

    # With a format around messages: an interrupted answer goes on after an empty line, and a message ends it.
    t = Terminal(model, "--chat-format", "v1", "-n", "100000000", *ENDLESS, output=at("out"))
    start = t.until(b"> ")
    check(
        "the beginning says that messages are answered",
        b"answers what you type" in start and b"base model" not in start,
        start,
    )
    t.ready()
    os.write(t.fd, b"Once\r")
    for part in range(2):
        size = os.path.getsize(at("out"))
        for _ in range(3000):
            if os.path.getsize(at("out")) > size:
                break
            time.sleep(0.02)
        check("Ctrl-C in an answer to a message", b"(interrupted;" in t.interrupt())
        if part == 0:
            t.ready()
            os.write(t.fd, b"\r")
    answers = open(at("out"), "rb").read().decode().split("\n")
    whole = generated("User: Once\n\nAssistant:", 2000).decode().rstrip("\n")
    said = "".join(answers)
    check(
        "an empty line goes on with the same answer",
        len(answers) == 3 and (whole.startswith(said) or said.startswith(whole)),
        (answers[0][:50], answers[1][:50]),
    )
    t.send("/undo\r", b"remain.")
    t.send("\r", b"There is no answer yet")
    t.ready()
    t.leave()
    check("with a format: leaves", t.code() == 0)

    # SIGTERM and a closed terminal end it.
    t = Terminal(model, output=at("out"))
    t.until(b"> ")
    os.kill(t.pid, signal.SIGTERM)
    check("SIGTERM at the prompt", t.code() == 1)
    t = Terminal(model, output=at("out"))
    t.until(b"> ")
    os.close(t.fd)
    os.waitpid(t.pid, 0)   # returns

    # The history file, where it is asked for.
    for turn in range(2):
        t = Terminal(model, "-n", "3", "--history", at("history"), output=at("out"))
        t.until(b"> ")
        if turn:
            check("a line of the last conversation", b"Once upon" in t.send(b"\x1b[A", b"Once upon"))
            t.ready()
            os.write(t.fd, b"\r")
        else:
            t.send("Once upon\r")
        time.sleep(0.2)
        t.leave()
        check("--history: leaves", t.code() == 0)
    check("the history file", b"Once" in open(at("history"), "rb").read())
    t = Terminal(model, "--history", at("nowhere/history"), output=at("out"))
    t.until(b"> ")
    t.leave()
    check("a history that cannot be written", t.code() == 1)

    # In a locale without UTF-8 it is there all the same.
    t = Terminal(model, "-n", "12", *ENDLESS, output=at("out"), locale="C")
    t.until(b"> ")
    t.send("Oncé\x7fe\r")
    t.leave()
    check("the C locale: leaves", t.code() == 0)
    check(
        "the C locale: whole characters",
        open(at("out"), "rb").read().decode().split("\n")[0] == first,
        open(at("out"), "rb").read(),
    )
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
