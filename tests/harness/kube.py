"""A Kubernetes of tests/services/kube in a directory of its own, and what tests ask of it as its administrator."""
import base64
import json
import pathlib
import signal
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from . import TESTS, wait_for
from .services import Process

# What the operator's CLI gives the account of a namespace for pods.
OPERATOR_RULES = [
    {'apiGroups': [''], 'verbs': ['create', 'delete', 'get', 'list', 'patch', 'update', 'watch'],
     'resources': ['pods', 'pods/exec', 'pods/portforward', 'services', 'persistentvolumeclaims', 'configmaps', 'secrets']},
    {'apiGroups': ['apps'], 'verbs': ['create', 'delete', 'get', 'list', 'patch', 'update', 'watch'],
     'resources': ['deployments', 'statefulsets']},
]


class Kube(Process):
    def __init__(self, directory, workloads=False):
        """`workloads`: with the controllers of Deployments, StatefulSets and disruption budgets."""
        self.directory = pathlib.Path(directory)
        super().__init__([TESTS / 'services/kube/run', self.directory, *(['--workloads'] if workloads else [])], self.directory / 'run.log', grace=40)

    @staticmethod
    def missing():
        """Why it cannot run here, or None."""
        built = subprocess.run([TESTS / 'services/kube/build'], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return built.stderr.strip().splitlines()[-1] if built.returncode else None

    def start(self):
        super().start()

        def up():
            if not self.running():
                raise RuntimeError(f'Kubernetes ended:\n{self.tail()}')
            return (self.directory / 'ready').exists()
        try:
            wait_for(f'up: Kubernetes in {self.directory}', up, 180)
        except BaseException:
            self.stop()
            raise
        self.url = (self.directory / 'url').read_text().strip()
        self.ca = base64.b64encode((self.directory / 'ca.crt').read_bytes()).decode()
        self.tls = ssl.create_default_context(cafile=self.directory / 'ca.crt')
        return self

    def kill_api(self):
        self.child.send_signal(signal.SIGUSR1)

    def start_api(self):
        self.child.send_signal(signal.SIGUSR2)

    # As the administrator; answers are the API's own JSON.

    def call(self, method, path, body=None, **query):
        url = f'{self.url}{path}' + (f'?{urllib.parse.urlencode(query)}' if query else '')
        request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode(), headers={
            'Authorization': f'Bearer {self.admin_token()}', 'Content-Type': 'application/json'})
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f'{method} {path}: {error.read().decode()}') from None

    def namespace(self, name):
        self.call('POST', '/api/v1/namespaces', {'metadata': {'name': name}})
        # A pod is refused until its namespace has this.
        wait_for(f'made: the account of namespace {name}', lambda: any(
            a['metadata']['name'] == 'default' for a in self.items(f'/api/v1/namespaces/{name}/serviceaccounts')))

    def items(self, path, **query):
        return self.call('GET', path, **query)['items']

    def pods(self, namespace, **query):
        return self.items(f'/api/v1/namespaces/{namespace}/pods', **query)

    def namespaces(self, **query):
        return self.items('/api/v1/namespaces', **query)

    def service_account(self, namespace, name, rules):
        """An account that may do just that there, and its token that does not expire."""
        core, rbac = f'/api/v1/namespaces/{namespace}', f'/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}'
        self.call('POST', f'{core}/serviceaccounts', {'metadata': {'name': name}})
        self.call('POST', f'{rbac}/roles', {'metadata': {'name': f'{name}-role'}, 'rules': rules})
        self.call('POST', f'{rbac}/rolebindings', {
            'metadata': {'name': f'{name}-binding'},
            'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'Role', 'name': f'{name}-role'},
            'subjects': [{'kind': 'ServiceAccount', 'name': name, 'namespace': namespace}]})
        return self.token(namespace, name)

    def token(self, namespace, account, secret=None):
        secret = secret or f'{account}-token'
        path = f'/api/v1/namespaces/{namespace}/secrets'
        self.call('POST', path, {'metadata': {'name': secret, 'annotations': {
            'kubernetes.io/service-account.name': account}}, 'type': 'kubernetes.io/service-account-token'})
        data = wait_for(f'filled: secret {secret}',
                        lambda: self.call('GET', f'{path}/{secret}').get('data', {}).get('token'))
        return base64.b64decode(data).decode()

    def certificate(self, namespace, user):
        """A kubeconfig's entry for a user who shows a certificate, and may do in a namespace what nodepool-sa may."""
        def openssl(*arguments):
            subprocess.run(['openssl', *arguments], check=True, cwd=self.directory, capture_output=True)
        openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', f'/CN={user}', '-keyout', f'{user}.key', '-out', f'{user}.csr')
        (self.directory / f'{user}.ext').write_text('extendedKeyUsage=clientAuth\n')
        openssl('x509', '-req', '-in', f'{user}.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '30',
                '-extfile', f'{user}.ext', '-out', f'{user}.crt')
        self.call('POST', f'/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings', {
            'metadata': {'name': f'{user}-binding'},
            'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'Role', 'name': 'nodepool-sa-role'},
            'subjects': [{'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'User', 'name': user}]})
        return {'client-certificate': str(self.directory / f'{user}.crt'), 'client-key': str(self.directory / f'{user}.key')}

    def admin_token(self):
        user = json.loads((self.directory / 'admin.kubeconfig').read_text())['users'][0]
        return user['user']['token']

    def kubeconfig(self, path, contexts, current=None):
        """Writes a kubeconfig: each context with its user's entry (a token as text, or a dict) on this cluster."""
        def user(entry):
            return entry if isinstance(entry, dict) else {'token': entry}
        document = {
            'apiVersion': 'v1', 'kind': 'Config', 'current-context': current or next(iter(contexts), ''),
            'clusters': [{'name': 'kube', 'cluster': {'server': self.url, 'certificate-authority-data': self.ca}}],
            'users': [{'name': name, 'user': user(entry)} for name, entry in contexts.items()],
            'contexts': [{'name': name, 'context': {'cluster': 'kube', 'user': name}} for name in contexts]}
        path = pathlib.Path(path)
        aside = path.with_suffix('.new')
        aside.write_text(json.dumps(document, indent=1))
        aside.rename(path)
        return path

    def audit(self, since=0):
        """What was asked of the API server since a position, and the position now."""
        with open(self.directory / 'audit.log') as lines:
            lines.seek(since)
            text = lines.read()
        whole = text[:text.rfind('\n') + 1]
        return [json.loads(line) for line in whole.splitlines()], since + len(whole.encode())
