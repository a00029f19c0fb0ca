"""Runs scenarios beside each other: most of them wait most of the time, for a cloud or for what they have broken.

Each job is a process of its own (this script's `run` with the names of its scenarios), whose output is printed when it
ends. What jobs share keeps some of them apart:

- the OpenStack of this machine is one scenario's at a time: each has a project of its own there, but fifty servers that
  are made beside it let a scenario with three wait for minutes, and some break a service for everybody;
- the Kubernetes cluster: the scenarios with pods are one job, which starts it once;
- the machine: a scenario that compares latencies has it to itself (`MEASURES`).
"""
import re
import subprocess
import sys
import threading
import time

MEASURES = {'hanging-provider'}
# What takes longest begins first, so that it does not run alone at the end. All others are shorter than these.
LONGEST = ('pods-as-python', 'openstack-fifty', 'openstack-quota', 'builder-killed', 'migration', 'builder-ansible',
           'fault-keystone-down', 'fault-storms', 'fault-hangs', 'builder-beside-python')
SUM = re.compile(r'^\d+ passed, \d+ failed, \d+ skipped\n', re.MULTILINE)
ENDED = re.compile(r'^interop: (\S+): (passed|failed|skipped) in (\d+) s$', re.MULTILINE)


class Job:
    def __init__(self, names, needs):
        self.names = names
        # What of the machine's it uses, and whether others may use it at the same time.
        self.needs = needs
        self.process = None

    def fits_beside(self, running):
        """Whether it can run while the others do."""
        for other in running:
            for thing, alone in self.needs.items():
                if thing in other.needs and (alone or other.needs[thing]):
                    return False
        return True


def jobs(names, groups):
    """`groups`: the scenarios' names by what they use (`cloud`, `kube`)."""
    found = []
    pods = [name for name in names if name in groups['kube']]
    if pods:
        found.append(Job(pods, {'machine': False}))
    for name in names:
        if name in pods:
            continue
        needs = {'machine': name in MEASURES}
        if name in groups['cloud']:
            needs['cloud'] = True
        found.append(Job([name], needs))
    order = {name: position for position, name in enumerate(LONGEST)}

    def urgency(job):
        # What needs the machine to itself comes last: it waits for all others.
        return job.needs['machine'], min(order.get(name, len(order)) for name in job.names)
    return sorted(found, key=urgency)


def run(script, arguments, todo, at_once):
    """Runs all jobs, so many at once; returns `{scenario: (outcome, seconds)}`."""
    results, running, changed = {}, [], threading.Condition()
    started = time.monotonic()

    def work(job):
        output, _ = job.process.communicate()
        with changed:
            # The sum of one job would be taken for that of all.
            print(SUM.sub('', output), end='', flush=True)
            ended = {name: (outcome, int(seconds)) for name, outcome, seconds in ENDED.findall(output)}
            for name in job.names:
                results[name] = ended.get(name, ('failed', 0))
                if name not in ended:
                    status = job.process.returncode
                    print(f'interop: {name}: its process ended with status {status} before it had a result', flush=True)
            running.remove(job)
            changed.notify()

    todo = list(todo)
    try:
        with changed:
            while todo or running:
                job = next((job for job in todo if job.fits_beside(running)), None) if len(running) < at_once else None
                if job is None:
                    changed.wait()
                    continue
                todo.remove(job)
                running.append(job)
                print(f'interop: begun: {", ".join(job.names)}', flush=True)
                job.process = subprocess.Popen([sys.executable, script, *arguments, *job.names], stdout=subprocess.PIPE,
                                               stderr=subprocess.STDOUT, text=True, errors='replace')
                threading.Thread(target=work, args=(job,), daemon=True).start()
    finally:
        # Ended from outside: each job ends what it has started.
        for job in list(running):
            job.process.terminate()
        for job in list(running):
            job.process.wait()
    for name, (outcome, seconds) in sorted(results.items(), key=lambda item: -item[1][1]):
        print(f'{seconds:5} s  {outcome:7}  {name}')
    print(f'interop: {time.monotonic() - started:.0f} s in all')
    return results
