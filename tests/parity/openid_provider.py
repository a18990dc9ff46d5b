"""Signs in to `pipeline serve` at a provider of OpenID Connect that others wrote (oidc-provider-mock, over
Authlib, RS256), as a browser would, and sends a notice to their mail server (aiosmtpd).

    make parity     or by hand, with the packages of requirements.txt:
    python tests/parity/openid_provider.py path/to/pipeline

Prints one line a check and ends with status 1 at the first that fails.
"""

import logging
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import httpx
from aiosmtpd.controller import Controller
from oidc_provider_mock import User, run_server_in_thread

logging.disable(logging.WARNING)


def check(name, condition, seen):
    print(f"{'ok  ' if condition else 'FAIL'} {name}: {seen!r}"[:160])
    if not condition:
        sys.exit(1)


class Mailbox:
    def __init__(self):
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(envelope.content.decode())
        return "250 taken"


def settings(issuer, mail_port):
    return f"""
[oidc]
issuer = "{issuer}"
client_id = "corpusmith"
client_secret_env = "PARITY_OIDC_SECRET"
run = ["curators"]
[notify.email]
server = "smtp://127.0.0.1:{mail_port}?tls=none"
from = "corpusmith@example.org"
to = ["data@example.org"]
"""


ann = User(sub="ann", claims={"groups": ["curators"], "email": "ann@example.org"})
eve = User(sub="eve", claims={"groups": ["visitors"]})
mailbox = Mailbox()
with socket.create_server(("127.0.0.1", 0)) as free:
    mail_port = free.getsockname()[1]
mail = Controller(mailbox, hostname="127.0.0.1", port=mail_port)
mail.start()
with run_server_in_thread(user_claims=[ann, eve]) as provider, tempfile.TemporaryDirectory() as folder:
    issuer = f"http://localhost:{provider.server_port}"
    data, workflows = pathlib.Path(folder, "data"), pathlib.Path(folder, "workflows")
    data.mkdir()
    workflows.mkdir()
    (data / "service.toml").write_text(settings(issuer, mail_port))
    arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data, "--workflows", workflows]
    environment = {**os.environ, "PARITY_OIDC_SECRET": "any"}
    service = subprocess.Popen([sys.argv[1], *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = re.search(r"https?://\S+", service.stdout.readline())[0]

        def sign_in(user):
            browser = httpx.Client(base_url=url)
            away = browser.get("/login/provider")
            back = httpx.post(away.headers["location"], data={"sub": user}).headers["location"]
            return browser, browser.get(back.removeprefix(url)), back

        browser, answer, back = sign_in("ann")
        check("signed in", answer.status_code == 303, (answer.status_code, answer.text))
        check("may look", browser.get("/api/v1/runs").status_code == 200, "/api/v1/runs")
        check("may not administrate", browser.get("/api/v1/tokens").status_code == 403, "/api/v1/tokens")
        again = browser.get(back.removeprefix(url))
        check("an answer is taken once", again.status_code == 401, again.status_code)
        browser.post("/logout")
        check("signed out", browser.get("/api/v1/runs").status_code == 401, "/api/v1/runs")
        _, answer, _ = sign_in("eve")
        check("others are refused", answer.status_code == 403, answer.status_code)
        token = subprocess.run(
            [sys.argv[1], "token", "create", "a", "--scope", "admin", "--data", data],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        bearer = {"Authorization": f"Bearer {token}"}
        sent = httpx.post(f"{url}/api/v1/notify/test", headers=bearer)
        check("a notice is sent", sent.status_code == 204, (sent.status_code, sent.text))
        deadline = time.time() + 30
        while not mailbox.messages and time.time() < deadline:
            time.sleep(0.05)
        check("and arrives", "Subject: [Corpusmith] Test" in "".join(mailbox.messages), mailbox.messages)
    finally:
        service.terminate()
        service.wait()
        mail.stop()
