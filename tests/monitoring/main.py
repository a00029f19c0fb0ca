"""See run."""
import pathlib
import sys
import traceback

# The harness stands beside this directory.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import board  # noqa: E402
import exporter  # noqa: E402
import guide  # noqa: E402
import lives  # noqa: E402
import pythons  # noqa: E402
import rules  # noqa: E402

# What needs promtool only, what needs nothing, and what needs the daemons to have lived.
STATIC = [*rules.CASES, *board.CASES]
ALWAYS = [*exporter.STATIC_CASES, *guide.CASES]
ON_SITE = [*exporter.CASES, *pythons.CASES_ON_SITE, *rules.CASES_ON_SITE, *board.CASES_ON_SITE, *guide.CASES_ON_SITE]

COUNTS = dict.fromkeys(('passed', 'failed', 'skipped'), 0)


def case(name, check, *arguments):
    """Runs one check, says how it went, and counts it."""
    try:
        check(*arguments)
    except Exception as error:
        COUNTS['failed'] += 1
        print(f'FAILED {name}: {error}', flush=True)
        if not isinstance(error, AssertionError):
            traceback.print_exc()
    else:
        COUNTS['passed'] += 1
        print(f'ok {name}', flush=True)


def skip(cases, reason):
    COUNTS['skipped'] += cases
    print(f'skipped: {cases} cases: {reason}', flush=True)


def missing():
    """Why daemons and exporter cannot be run here, if they cannot."""
    if not lives.EXPORTER.exists():
        return 'statsd_exporter is missing: tests/setup monitoring'
    if not lives.can_name_hosts():
        return 'this user may not give a process a host name of its own (unshare --uts)'
    return None


def on_site():
    with lives.site(guide.commands()) as site:
        for check in ON_SITE:
            case(check.__name__, check, site)


def main():
    if pathlib.Path(rules.PROMTOOL).exists():
        for check in STATIC:
            case(check.__name__, check)
    else:
        skip(len(STATIC), f'{rules.PROMTOOL} is missing: tests/setup monitoring')
    for check in ALWAYS:
        case(check.__name__, check)
    reason = missing()
    if reason:
        skip(len(ON_SITE) + 1, reason)
    else:
        case('the daemons live through it', on_site)
    print('{passed} passed, {failed} failed, {skipped} skipped'.format(**COUNTS))
    return 1 if COUNTS['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
