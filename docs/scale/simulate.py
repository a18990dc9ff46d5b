"""What skew, stragglers and preemption add to a plan for a cluster: a simulation, stage by stage.

    pipeline plan WORKFLOW --profile full --cluster 64x32 --json | python docs/scale/simulate.py 64x32

Every stage whose tasks travel is played task by task: a free core takes the next one, as Ballista's scheduler hands
them out, one at a time. Three things make it longer than the plan says:

  skew        tasks are not of one length: log-normal, standard deviation of the logarithm --skew (0.35: between
              a half and twice the mean, as shards closed at a size whose rows differ)
  stragglers  of a hundred machines --slow (5) work at half speed
  preemption  a machine is taken away --lost times an hour (0.05: each once in twenty hours), with it what its
              cores were doing; the scheduler learns of it after 20 s of silence, and --replace seconds (120) after
              the loss another machine joins

Prints the time of each stage without and with each of them and with all together: medians of --runs (5) seeded runs.
"""

import argparse
import heapq
import json
import random
import statistics
import sys

SILENCE = 20.0


def play(tasks, mean, machines, cores, skew, slow, lost_an_hour, replace, draw):
    """Seconds until the last of the tasks is done, and how many were begun."""
    # A mean of 1 whatever the deviation.
    lengths = [mean * draw.lognormvariate(-skew * skew / 2, skew) if skew else mean for _ in range(tasks)]
    waiting, todo = [], list(range(tasks - 1, -1, -1))
    # Events: (time, number, kind, machine, task); a machine that is lost ends its own later events by its life.
    events, number = [], 0
    speed, life, lives = {}, {}, 0
    running = {}

    def push(time, kind, *what):
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, kind, *what))

    def join(machine, now):
        nonlocal lives
        lives += 1
        life[machine], running[machine] = lives, set()
        speed[machine] = 0.5 if draw.random() < slow else 1.0
        if lost_an_hour:
            push(now + draw.expovariate(lost_an_hour / 3600), "lost", machine, lives)
        for _ in range(cores):
            begin(machine, now)

    def begin(machine, now):
        if todo:
            task = todo.pop()
            running[machine].add(task)
            begun[0] += 1
            push(now + lengths[task] / speed[machine], "done", machine, life[machine], task)
        else:
            waiting.append((machine, life[machine]))

    begun, left = [0], tasks
    for machine in range(machines):
        join(machine, 0.0)
    while events:
        now, _, kind, *what = heapq.heappop(events)
        if kind == "done":
            machine, of_life, task = what
            if life.get(machine) != of_life:
                continue
            running[machine].discard(task)
            left -= 1
            if left == 0:
                return now, begun[0]
            begin(machine, now)
        elif kind == "lost":
            machine, of_life = what
            if life.get(machine) == of_life:
                push(now + SILENCE, "again", sorted(running.pop(machine)))
                del life[machine]
                push(now + replace, "join", machine)
        elif kind == "again":
            todo.extend(what[0])
            idle, waiting[:] = waiting[:], []
            for machine, of_life in idle:
                if life.get(machine) == of_life:
                    begin(machine, now)
        else:
            join(what[0], now)
    raise SystemExit("the simulation ended before its tasks")


def clock(seconds):
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cluster")
    parser.add_argument("--skew", type=float, default=0.35)
    parser.add_argument("--slow", type=float, default=5.0)
    parser.add_argument("--lost", type=float, default=0.05)
    parser.add_argument("--replace", type=float, default=120.0)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    machines, cores = (int(number) for number in given.cluster.split("x"))
    cases = {
        "skew": (given.skew, 0.0, 0.0),
        "stragglers": (0.0, given.slow / 100, 0.0),
        "preemption": (0.0, 0.0, given.lost),
        "all": (given.skew, given.slow / 100, given.lost),
    }
    print("| stage | tasks | a task | plan | " + " | ".join(cases) + " | tasks done twice |")
    print("|---|---:|---:|---:|" + "---:|" * (len(cases) + 1))
    for line in sys.stdin:
        stage = json.loads(line)
        share = stage.get("cluster") or {}
        if not share.get("tasks") or not share.get("seconds"):
            continue
        tasks = int(share["tasks"])
        busy = min(machines * cores, tasks)
        mean = share["seconds"] * busy / tasks
        cells, twice = [], 0
        for name, (skew, slow, lost) in cases.items():
            runs = [
                play(tasks, mean, machines, cores, skew, slow, lost, given.replace, random.Random(seed))
                for seed in range(given.runs)
            ]
            time = statistics.median(seconds for seconds, _ in runs)
            cells.append(f"{clock(time)} ({time / share['seconds']:.2f} ×)")
            if name == "all":
                twice = statistics.median(begun - tasks for _, begun in runs)
        print(
            f"| {stage['stage']} | {tasks:,} | {clock(mean)} | {clock(share['seconds'])} | "
            + " | ".join(cells)
            + f" | {twice:,.0f} |",
            flush=True,
        )


main()
