"""The Grafana board of deploy/monitoring: its expressions are valid, and each panel shows something of what there is."""
import json
import pathlib
import re
import tempfile

import yaml

from rules import DIRECTORY, NOT_HERE, metrics, promtool, unknown

BOARD = DIRECTORY / 'grafana.json'
# What Grafana puts in.
VARIABLES = {'$__rate_interval': '5m', '$provider': '.*'}


def expressions():
    """[(panel, expression)], as Prometheus gets them."""
    found = []
    for panel in json.loads(BOARD.read_text())['panels']:
        for target in panel.get('targets', ()):
            expression = target['expr']
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel['title'], expression))
    return found


def panels_are_complete():
    """One place each, no id twice, a description, nothing over another."""
    panels = json.loads(BOARD.read_text())['panels']
    ids = [panel['id'] for panel in panels]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in panels:
        place = panel['gridPos']
        cells = {(x, y) for x in range(place['x'], place['x'] + place['w']) for y in range(place['y'], place['y'] + place['h'])}
        assert not cells & taken and max(x for x, _ in cells) < 24, f'{panel["title"]} lies over another panel'
        taken |= cells
        assert panel['type'] == 'row' or panel['description'], f'{panel["title"]} has no description'


def every_expression_is_valid():
    rules = [{'record': f'panel:{number}', 'expr': expression} for number, (_, expression) in enumerate(expressions())]
    with tempfile.TemporaryDirectory(prefix='np-board-') as directory:
        file = pathlib.Path(directory) / 'rules.yaml'
        file.write_text(yaml.safe_dump({'groups': [{'name': 'panels', 'rules': rules}]}))
        promtool('check', 'rules', file)


def panels_read_what_there_is(site):
    wrong = list(unknown(expressions(), site.shown()))
    assert not wrong, '\n'.join(wrong)


def series(name, labels, value):
    """One sample, constant for twenty minutes, as promtool's tests take it."""
    pairs = ','.join(f'{key}={json.dumps(text)}' for key, text in (*labels, ('instance', 'x')))
    # Its notation knows no repetition of what is no number.
    number = {'inf': '+Inf', '-inf': '-Inf', 'nan': 'NaN'}.get(str(value))
    return {'series': f'{name}{{{pairs}}}', 'values': ' '.join([number] * 20) if number else f'{value}x20'}


def no_panel_is_empty(site):
    """Evaluates each expression on what daemons and exporter have really shown."""
    shown = [expression for expression in expressions() if not metrics(expression[1]) & NOT_HERE]
    assert len(shown) > 30, 'most panels must be tried'
    checks = [{'expr': f'(count({expression}) > bool 0) + 0 * {number}', 'eval_time': '10m',
               'exp_samples': [{'labels': '{}', 'value': 1}]} for number, (_, expression) in enumerate(shown)]
    with tempfile.TemporaryDirectory(prefix='np-board-') as directory:
        file = pathlib.Path(directory) / 'test.yaml'
        file.write_text(yaml.safe_dump({'rule_files': [], 'evaluation_interval': '1m', 'tests': [{
            'interval': '1m', 'input_series': [series(name, labels, value) for (name, labels), value in site.shown().items()],
            'promql_expr_test': checks}]}))
        try:
            promtool('test', 'rules', file)
        except AssertionError as error:
            empty = [shown[int(number)][0] for number in re.findall(r'\+ 0 \* (\d+)', str(error))]
            raise AssertionError(f'empty: {empty}\n{str(error)[:2000]}') from error


CASES = [panels_are_complete, every_expression_is_valid]
CASES_ON_SITE = [panels_read_what_there_is, no_panel_is_empty]
