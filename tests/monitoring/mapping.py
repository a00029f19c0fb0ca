"""The rules by which the Software Factory operator's statsd_exporter makes Prometheus metrics of Nodepool's.

The operator derives them from the metrics that upstream documents (operation.rst); so does this, in its own way:

- each part in angle brackets is one component of a name, without dots, and becomes a label;
- a `<result>` at the end becomes two rules: `….ready`, and `….error.*` with the label `error`;
- openstacksdk's calls have a rule for each prefix that clouds.yaml gives, and one for the general prefix;
- everything else is dropped.
"""
import re

# Labels that would be no names in Prometheus, or that the operator calls otherwise.
LABELS = {'image name': 'image', 'provider name': 'provider', 'diskimage_name': 'diskimage', 'diskimage name': 'diskimage'}
DEFAULT_PREFIX = 'openstack.api'


def documented(operation_rst):
    """The documented names, such as `nodepool.label.<label>.nodes.<state>`, in their order."""
    return re.findall(r'^ *\.\. zuul:stat:: (\S.*)$', operation_rst.read_text(), re.M)


def rule(parts):
    """One rule for a documented name in its parts."""
    variables = [part[1:-1] for part in parts if part.startswith('<')]
    return {
        'match': '.'.join('*' if part.startswith('<') else part for part in parts),
        'name': '_'.join(part for part in parts if not part.startswith('<')),
        'labels': {LABELS.get(name, name): f'${number}' for number, name in enumerate(variables, 1)},
    }


def rules_of(name):
    parts = name.split('.')
    if parts[-1] == '<result>':
        return [rule([*parts[:-1], 'ready']), rule([*parts[:-1], 'error', '<error>'])]
    return [rule(parts)]


def call_rule(prefix):
    """For the calls that openstacksdk counts under a prefix."""
    return {
        'match': f'{prefix}.*.*.*.*', 'name': prefix.replace('.', '_'),
        'labels': {'service': '$1', 'method': '$2', 'resource': '$3', 'status': '$4'},
    }


def rules(operation_rst, cloud_prefixes=(), general_prefix=DEFAULT_PREFIX):
    """All rules that keep something. The documentation has some names with further ones below them, as in the operator's."""
    found = [rule for name in documented(operation_rst) for rule in rules_of(name)]
    return [*found, *(call_rule(prefix) for prefix in (*cloud_prefixes, general_prefix))]


def mapping(kept):
    """What statsd_exporter takes as its file."""
    return {'mappings': [*kept, {'match': '.', 'match_type': 'regex', 'action': 'drop', 'name': 'dropped'}]}
