"""`vit-jax train` without JAX: it counts to ten, saves each step, and resumes.

--config.hold=N: waits after step N until there is a file "go" in the workdir.
--config.fails_on=W: worker W fails in step 3.
--config.show=NAME: prints a variable of the environment.
"""

import os
import signal
import sys
import time

flags = dict(word[2:].partition("=")[::2] for word in sys.argv if word.startswith("--config."))
workdir = sys.argv[sys.argv.index("--workdir") + 1]
worker = int(os.environ["TPU_WORKER_ID"])
file = os.path.join(workdir, f"step-{worker}")
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
os.makedirs(workdir, exist_ok=True)
with open(os.path.join(workdir, f"starts-{worker}"), "a") as starts:
    starts.write(" ".join(sys.argv[1:]) + "\n")
if "config.show" in flags:
    print(os.environ[flags["config.show"]], flush=True)
step = 0
if os.path.exists(file):
    with open(file) as saved:
        step = int(saved.read())
print(f"resuming after step {step}" if step else "a new run", flush=True)
while step < 10 and not told:
    step += 1
    if str(worker) == flags.get("config.fails_on") and step == 3:
        print("something is wrong\nValueError: here", flush=True)
        sys.exit(3)
    print(f"step {step} of worker {worker}", flush=True)
    with open(file + ".tmp", "w") as saved:
        saved.write(str(step))
    os.replace(file + ".tmp", file)
    deadline = time.monotonic() + 300
    while str(step) == flags.get("config.hold") and not told:
        if os.path.exists(os.path.join(workdir, "go")):
            break
        if time.monotonic() > deadline:
            sys.exit("nobody said go")
        time.sleep(0.02)
print(f"stopped after step {step}" if told else "done", flush=True)
sys.exit(75 if told else 0)
