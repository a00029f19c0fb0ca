"""The alerts of deploy/monitoring: valid, tested both ways, documented, and about metrics that there are."""
import re
import subprocess

import yaml

from harness import ROOT, documents

DIRECTORY = ROOT / 'deploy/monitoring'
ALERTS = DIRECTORY / 'alerts.yaml'
TESTS = [DIRECTORY / 'alerts_test.yaml', DIRECTORY / 'alerts_days_test.yaml']
PROMTOOL = '/usr/bin/promtool'
# Of Prometheus itself.
FOREIGN = {'up'}
# Only a real OpenStack makes calls that are counted (the simulated one is none), and only some of them fail.
NOT_HERE = {'nodepool_cloud_calls_total', 'nodepool_cloud_errors_total', 'nodepool_cloud_call_seconds_bucket',
            'nodepool_cloud_call_seconds_sum', 'nodepool_cloud_call_seconds_count',
            # Only where records were lost: tests/interop/restore.py.
            'nodepool_leaks_held_back'}
NAME = re.compile(r'\b(?:nodepool|openstack|statsd_exporter)_\w+|\bup\b')
SELECTOR = re.compile(r'\b((?:nodepool|statsd_exporter)_\w+)\s*\{([^}]*)\}')
GROUPED = re.compile(r'\b(?:by|on|group_left|group_right)\s*\(([^)]*)\)')


def promtool(*arguments):
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, cwd=DIRECTORY)
    assert done.returncode == 0, f'promtool {" ".join(map(str, arguments))}:\n{done.stdout}{done.stderr}'
    return done.stdout


def alerts():
    return [rule for group in yaml.safe_load(ALERTS.read_text())['groups'] for rule in group['rules']]


def metrics(expression):
    """The metrics that an expression reads."""
    # What stands in quotes is no name.
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def alerts_are_valid():
    promtool('check', 'rules', ALERTS.name)


def alerts_fire_when_they_should_and_not_else():
    promtool('test', 'rules', *(file.name for file in TESTS))


def each_alert_is_tested_both_ways():
    fires, quiet = set(), set()
    for block in (block for file in TESTS for block in yaml.safe_load(file.read_text())['tests']):
        for check in block.get('promql_expr_test', ()):
            [name] = re.findall(r'alertname="(\w+)"', check['expr'])
            (fires if check['exp_samples'] else quiet).add(name)
    names = {rule['alert'] for rule in alerts()}
    assert names == fires == quiet, f'not tested: {names - fires} to fire, {names - quiet} to be quiet; gone: {fires - names}'


def each_alert_says_what_to_do():
    for rule in alerts():
        name, annotations = rule['alert'], rule['annotations']
        assert set(annotations) == {'summary', 'description', 'runbook'}, name
        assert rule['labels']['severity'] in ('critical', 'warning'), name
        document, _, anchor = annotations['runbook'].partition('#')
        assert anchor in documents.anchors(ROOT / document), f'{name}: {document} has no section #{anchor}'


def unknown(expressions, found):
    """What expressions read that was not there: `found` are samples of what daemons and exporters really showed."""
    labels = {}
    for name, pairs in found:
        labels.setdefault(name, set()).update(dict(pairs))
    for where, expression in expressions:
        for name in sorted(metrics(expression) - FOREIGN - NOT_HERE - set(labels)):
            yield f'{where}: nobody has {name}'
        for name, selector in SELECTOR.findall(expression):
            for label in re.findall(r'(\w+)\s*[=!]', selector):
                if name in labels and label not in labels[name]:
                    yield f'{where}: {name} has no label {label}'
        known = {'job', 'instance', 'le'}.union(*(labels.get(name, ()) for name in metrics(expression)))
        if not metrics(expression) & NOT_HERE:
            for group in GROUPED.findall(expression):
                for label in filter(None, re.split(r'\s*,\s*', group.strip())):
                    if label not in known:
                        yield f'{where}: no metric there has a label {label}'


def alerts_read_what_there_is(site):
    wrong = list(unknown([(rule['alert'], rule['expr']) for rule in alerts()], site.shown()))
    assert not wrong, '\n'.join(wrong)


def every_alert_is_about_a_launchers_own_metrics(site):
    """Not about statsd's: those are not everywhere, and have one name with other labels."""
    names = {name for name, _ in {**site.waiting, **site.native}} | FOREIGN | NOT_HERE
    for rule in alerts():
        assert metrics(rule['expr']) <= names, f'{rule["alert"]}: {metrics(rule["expr"]) - names}'


def the_wrapper_is_a_prometheus_rule():
    """The command of the README makes what Prometheus' operator takes."""
    [[command, _]] = documents.blocks((DIRECTORY / 'README.md').read_text())
    command = command.removesuffix(' >prometheusrule.yaml')
    made = subprocess.run(['bash', '-c', command], capture_output=True, text=True, cwd=DIRECTORY, check=True).stdout
    rule = yaml.safe_load(made)
    assert rule['kind'] == 'PrometheusRule' and rule['metadata'] == {'name': 'nodepool'}
    assert rule['spec'] == yaml.safe_load(ALERTS.read_text())


CASES = [alerts_are_valid, alerts_fire_when_they_should_and_not_else, each_alert_is_tested_both_ways,
         each_alert_says_what_to_do, the_wrapper_is_a_prometheus_rule]
CASES_ON_SITE = [alerts_read_what_there_is, every_alert_is_about_a_launchers_own_metrics]
