"""The systemd units, by systemd's own tools. booted.py runs them."""
import os
import pathlib
import re
import shlex
import shutil

from checks import DEPLOY, ROOT, Skip, check, need_root, programs, run

UNITS = DEPLOY / 'systemd'
DAEMONS = ['nodepool-launcher', 'nodepool-builder']
# Of 10; systemd calls everything below 2 "ok".
EXPOSURE = 1.5


def environment_file():
    lines = [line for line in (UNITS / 'nodepool.default').read_text().splitlines() if '=' in line]
    return {key.lstrip('#'): value for key, _, value in (line.partition('=') for line in lines) if ' ' not in key}


class Units:
    def __init__(self, directory):
        need_root()
        if not shutil.which('systemd-analyze'):
            raise Skip('systemd-analyze is missing')
        self.directory = pathlib.Path(directory)
        self.units = self.directory / 'units'
        self.units.mkdir(parents=True)
        for daemon in DAEMONS:
            shutil.copy(UNITS / f'{daemon}.service', self.units)
        self.programs = programs()
        self.local = self.directory / 'usr-local-bin'
        self.local.mkdir()
        for name, path in self.programs.items():
            (self.local / name).symlink_to(path)

    def analyze(self, *arguments, ok=True):
        """With our programs where the units expect them, in a mount namespace of this command's own."""
        return run('unshare', '--mount', 'sh', '-c', 'mount --bind "$0" /usr/local/bin && exec "$@"', self.local,
                   'systemd-analyze', *arguments, ok=ok, env={**os.environ, 'SYSTEMD_UNIT_PATH': f'{self.units}:'})

    def verified(self):
        """systemd understands every line of the units, and finds their programs."""
        done = self.analyze('verify', *(self.units / f'{d}.service' for d in DAEMONS))
        check(not done.stderr.strip(), done.stderr)

    def drop_in(self):
        """It understands the drop-in for local builds."""
        directory = self.units / 'nodepool-builder.service.d'
        directory.mkdir()
        shutil.copy(UNITS / 'local-builds.conf', directory)
        try:
            done = self.analyze('verify', self.units / 'nodepool-builder.service')
            check(not done.stderr.strip(), done.stderr)
        finally:
            shutil.rmtree(directory)

    def misspelt(self):
        """It says so of a misspelt line."""
        path = self.units / 'nodepool-launcher.service'
        text = path.read_text()
        path.write_text(text.replace('ProtectClock=', 'ProtectClok='))
        done = self.analyze('verify', path, ok=False)
        path.write_text(text)
        check('ProtectClok' in done.stderr, f'it says nothing: {done.stderr}')

    def exposure(self):
        """Their exposure is as low as systemd's own services'."""
        found = []
        for daemon in DAEMONS:
            done = self.analyze('security', '--offline=true', '--no-pager', f'--threshold={int(EXPOSURE * 10)}',
                                self.units / f'{daemon}.service', ok=False)
            [level] = re.findall(r'exposure level for \S+: ([\d.]+)', done.stdout)
            check(done.returncode == 0 and float(level) <= EXPOSURE, f'{daemon}: {level}, at most {EXPOSURE} is wanted')
            found.append(f'{daemon} {level}')
        return ', '.join(found)

    def users_and_directories(self):
        """systemd's tools make the user and the directories, as the units need them."""
        root = self.directory / 'root'
        for kind in 'sysusers', 'tmpfiles':
            (root / f'etc/{kind}.d').mkdir(parents=True)
            shutil.copy(UNITS / f'nodepool.{kind}.conf', root / f'etc/{kind}.d/nodepool.conf')
        run('systemd-sysusers', f'--root={root}')
        [user] = [line.split(':') for line in (root / 'etc/passwd').read_text().splitlines() if line.startswith('nodepool:')]
        check(user[5] == '/var/lib/nodepool', user)
        run('systemd-tmpfiles', f'--root={root}', '--create', 'nodepool.conf')
        modes = {}
        for path in '/etc/nodepool', '/var/lib/nodepool', '/var/lib/nodepool/images', '/var/lib/nodepool/.ssh':
            found = (root / path[1:]).stat()
            modes[path] = oct(found.st_mode & 0o777)
            check(found.st_gid == int(user[3]), f'{path}: group {found.st_gid}')
            check(found.st_uid == (0 if path.startswith('/etc') else int(user[2])), f'{path}: user {found.st_uid}')
        check(set(modes.values()) == {'0o750', '0o700'}, modes)

    def command_lines(self):
        """The programs understand the units' command lines."""
        for daemon in DAEMONS:
            [line] = re.findall(r'^ExecStart=(.*)$', (self.units / f'{daemon}.service').read_text(), re.MULTILINE)
            arguments = []
            for word in shlex.split(line):
                # Without braces, a variable is as many words as it has.
                arguments += environment_file()[word[1:]].split() if word.startswith('$') else [word]
            program = self.programs[pathlib.Path(arguments[0]).name]
            # Told its version, a daemon has understood all the rest.
            run(program, *arguments[1:], '--version')
            refused = run(program, *arguments[1:], '--no-such-option', '--version', ok=False)
            check(refused.returncode == 2, f'{daemon} takes --no-such-option: {refused.returncode}')

    def environment(self):
        """Each variable of the environment file is one that the units or the daemons know."""
        known = (ROOT / 'docs/operations.md').read_text()
        units = ''.join((UNITS / f'{d}.service').read_text() for d in DAEMONS)
        unknown = [v for v in environment_file() if f'`{v}`' not in known and f'${v}' not in units]
        check(not unknown, f'nobody knows {unknown}')
        return ', '.join(environment_file())


def checks(counts, directory):
    units = counts.made('The units beside our programs', Units, directory)
    if units:
        for step in (units.verified, units.drop_in, units.misspelt, units.exposure, units.users_and_directories,
                     units.command_lines, units.environment):
            counts.run(step)
