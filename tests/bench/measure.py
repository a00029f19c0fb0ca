"""What a launcher costs while programs/' zk-load drives it, or while it has nothing to do."""
import contextlib
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import time

import bench_site as site
from harness import VENV, binary

# zookeeper-client pings each 3/20 of its session's 10 s.
PING_S = 1.5


class LoadEnded(RuntimeError):
    """zk-load has ended by itself."""


def cpu_seconds(pid):
    """Of a process and the children that it has reaped."""
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')


def waited_for_core(pid):
    """Seconds that its live threads have stood ready to run: how much other work held it up."""
    waited = 0
    for thread in pathlib.Path(f'/proc/{pid}/task').iterdir():
        with contextlib.suppress(OSError):
            waited += int((thread / 'schedstat').read_text().split()[1])
    return waited / 1e9


def memory(pid):
    """MiB resident: now, at most so far, and what of it is not the program's own file."""
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    return [int(re.search(rf'{key}:\s+(\d+)', status)[1]) / 1024 for key in ('VmRSS', 'VmHWM', 'RssAnon')]


class Costs:
    """Everything that is counted, from the creation of this object on."""

    def __init__(self, at):
        self.at = at
        self.pid = at.launcher.pid if at.launcher else None
        if at.cloud:
            at.cloud.ask('reset', {})
        self.cpu = cpu_seconds(self.pid) if self.pid else 0
        self.waited = waited_for_core(self.pid) if self.pid else 0
        self.zookeeper_cpu = self._zookeeper_cpu()
        self.packets, self.transactions = self._zookeeper()
        self.began = time.monotonic()

    def _zookeeper(self):
        """Packets that it has received of all its clients; its transactions."""
        ask = self.at.zookeeper.four_letters
        return (int(re.search(r'zk_packets_received\s+(\d+)', ask('mntr'))[1]),
                int(re.search(r'Zxid: 0x([0-9a-f]+)', ask('srvr'))[1], 16) & 0xffffffff)

    def _zookeeper_cpu(self):
        # The script that starts it becomes Java.
        return cpu_seconds(self.at.zookeeper.pid)

    def launcher_started(self):
        """For a launcher that was not there at the beginning."""
        self.pid = self.at.launcher.pid

    def report(self, nodes=0, packets=0, writes=0):
        """What the launcher cost. `packets` and `writes` were not its."""
        seconds = time.monotonic() - self.began
        received, transactions = self._zookeeper()
        cpu = cpu_seconds(self.pid) - self.cpu
        now, peak, anonymous = memory(self.pid)
        out = {
            'seconds': seconds, 'cpu_s': cpu, 'cpu_percent': 100 * cpu / seconds, 'memory_mib': now, 'peak_mib': peak,
            'anonymous_mib': anonymous,
            'waited_for_core_s': waited_for_core(self.pid) - self.waited,
            'zookeeper_cpu_s': self._zookeeper_cpu() - self.zookeeper_cpu,
            'packets': received - self.packets - packets, 'transactions': transactions - self.transactions - writes,
        }
        if self.at.cloud:
            out['cloud'] = counted = self.at.cloud.ask('counters')
            out['cloud_calls'] = counted['total']
        if nodes:
            out['cpu_ms_per_node'] = 1000 * cpu / nodes
            for what in ('packets', 'transactions', 'cloud_calls'):
                if what in out:
                    out[f'{what}_per_node'] = out[what] / nodes
        return out


class Load:
    """zk-load: says a line at each stage, and is told to go on."""

    def __init__(self, zookeeper, **options):
        command = [str(site.program('zk-load')), '--zk', f'127.0.0.1:{zookeeper.port}']
        for name, value in options.items():
            option = '--' + name.replace('_', '-')
            command += [option] if value is True else [option, str(value)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hear('connected')

    def hear(self, *events):
        line = self.process.stdout.readline()
        if not line:
            raise LoadEnded(f'zk-load has ended: {self.process.wait()}')
        heard = json.loads(line)
        if heard['event'] not in events:
            raise RuntimeError(f'zk-load says {heard["event"]}, expected was {" or ".join(events)}')
        return heard

    def tell(self, line):
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def load(at, restart=False, **options):
    """One run of zk-load with these options, and what it cost. With `restart` the launcher starts when all requests are
    there."""
    at.quiet()
    if restart:
        options |= {'restart': True, 'no_wait_gone': True}
    with Load(at.zookeeper, **options) as client:
        costs = Costs(at)
        client.tell('go')
        if restart:
            client.hear('created')
            client.tell(f't0 {at.start_launcher()!r}')
            costs.launcher_started()
        out = client.hear('drained', 'result')
        if out['event'] == 'drained':
            out = client.hear('result')
        client.tell('quit')
        nodes = out['fulfilled'] * out['nodes_per_request']
        return out | {'launcher': costs.report(nodes, out['packets'], out['writes']),
                      'launcher_alive': at.launcher.running()}


def floor(zookeeper, requests, root):
    """What ZooKeeper alone takes for so many requests, through connections as a launcher's and Zuul's."""
    command = [site.program('zk-floor'), *site.tls_arguments(zookeeper), '--zuul-zk', f'127.0.0.1:{zookeeper.port}',
               '--root', root, '--requests', requests, '--concurrency', 200]
    out = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


def idle(at, settle, seconds):
    """What it costs to do nothing for so long, from `settle` seconds on."""
    at.quiet()
    time.sleep(settle)
    costs = Costs(at)
    time.sleep(seconds)
    return costs.report() | {'launcher_alive': at.launcher.running()}


def listing(at, nodes, times):
    """The median of `nodepool list`, with its start and end."""
    environment = at.environment()
    command = [VENV / 'bin/nodepool' if at.python else binary('nodepool'), '-c', at.configure(), 'list']
    took = []
    for _ in range(times):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        shown = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True).stdout.decode()
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        # A line above the names, two below, one at the end.
        assert shown.count('\n') == nodes + 4, shown[-200:]
        took.append((seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return {'seconds': statistics.median(seconds for seconds, _ in took),
            'cpu_s': statistics.median(cpu for _, cpu in took)}


@contextlib.contextmanager
def profiled(at, path, starts=False):
    """Records where the launcher's CPU time goes, by function, to `path` (a file of text); nothing where it is None.
    `starts`: the launcher is not there yet; then the whole machine is recorded, more often, and the launcher's part read."""
    if path is None:
        yield
        return
    data = at.directory / 'perf.data'
    whom = ['--freq', '999', '--all-cpus'] if starts else ['--freq', '199', '--pid', str(at.launcher.pid)]
    with subprocess.Popen(['perf', 'record', '--quiet', '--call-graph', 'dwarf,8192', '--output', str(data), *whom]) as recorder:
        try:
            yield
        finally:
            recorder.terminate()
    report = ['perf', 'report', '--stdio', '--no-inline', '--call-graph', 'none', '--input', str(data),
              '--percentage', 'relative', '--pid', str(at.launcher.pid), '--sort', 'symbol', '--percent-limit', '0.3']
    with open(path, 'w') as out:
        # Time of a function itself, and with all that it calls.
        for kind in ('--no-children', '--children'):
            done = subprocess.run([*report, kind], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            # At the end of each line are columns that only some processors fill.
            lines = [re.sub(r'(\s+-)*\s*$', '', line) for line in done.stdout.splitlines()]
            out.writelines(f'{line}\n' for line in lines if line.strip('# .'))
            out.write('\n')
