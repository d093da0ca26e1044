"""jupyter.py URL: cells in a real kernel, one of them interrupted. Prints READY. Exits with 77 without Jupyter."""

from __future__ import annotations

import sys

try:
    import ipykernel  # noqa: F401
    from jupyter_client.manager import start_new_kernel
except ImportError:
    sys.exit(77)

manager, kernel = start_new_kernel(kernel_name="python3")
failures: list[str] = []


def cell(text: str) -> str | None:
    """Run it; the name of what it raised."""
    reply = kernel.execute_interactive(text, timeout=30, output_hook=lambda _: None)["content"]
    return reply.get("ename") if reply["status"] == "error" else None


def check(text: str, raised: str | None = None) -> None:
    got = cell(text)
    if got != raised:
        failures.append(f"{text!r} raised {got}, not {raised}")


check(f"from parlant_sync import Client; client = Client({sys.argv[1]!r}); session = client.create_session('quick')")
check("assert session.send('one', timeout=20).text == 'echo: one'")
check("silent = client.create_session('mute')")
# The interrupt button, as soon as the message is out and the turn is waited for.
check(
    "import os, signal, threading\n"
    "def press():\n"
    "    while not silent.history(kinds='message'): pass\n"
    "    os.kill(os.getpid(), signal.SIGINT)\n"
    "threading.Thread(target=press).start()\n"
    "silent.send('anybody?', timeout=30)",
    raised="KeyboardInterrupt",
)
check("assert session.send('two', timeout=20).text == 'echo: two'")
check("assert [e.message for e in session.history(kinds='message')][-1] == 'echo: two'")
check("silent.send('', timeout=1)", raised="ConfigurationError")
manager.shutdown_kernel(now=False)  # waits for it, with sessions still open
kernel.stop_channels()
print(failures or "READY")
