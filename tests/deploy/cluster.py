"""The manifests against the real API server and controllers of tests/services/kube, in namespaces where Pod Security
`restricted` is enforced."""
import copy
import pathlib
import subprocess
import tempfile

import yaml

import documents
from checks import HERE, KUBERNETES, Skip, check, kubectl, name, run, workloads
from harness import wait_for
from harness.kube import Kube
from manifests import with_component


def pod_of(workload, namespace):
    """The pod that a workload's controller would make, by another name."""
    template = copy.deepcopy(workload['spec']['template'])
    pod = {'apiVersion': 'v1', 'kind': 'Pod', **template}
    pod['metadata'] = {**template.get('metadata', {}), 'name': f'{workload["metadata"]["name"]}-by-hand', 'namespace': namespace}
    for claim in workload['spec'].get('volumeClaimTemplates', []):
        volume = claim['metadata']['name']
        pod['spec'].setdefault('volumes', []).append(
            {'name': volume, 'persistentVolumeClaim': {'claimName': f'{volume}-{pod["metadata"]["name"]}'}})
    return pod


# What makes a pod one that `restricted` refuses, each by itself.
FAULTS = {
    'a privileged container': lambda s: s['containers'][0]['securityContext'].update(
        privileged=True, allowPrivilegeEscalation=True),
    'a container that may gain privileges': lambda s: s['containers'][0]['securityContext'].pop('allowPrivilegeEscalation'),
    'a container that keeps capabilities': lambda s: s['containers'][0]['securityContext'].pop('capabilities'),
    'a pod that may be root': lambda s: s['securityContext'].update(runAsNonRoot=False),
    'the user 0': lambda s: s['securityContext'].update(runAsUser=0),
    'no seccomp profile': lambda s: s['securityContext'].pop('seccompProfile'),
    'the network of the machine': lambda s: s.update(hostNetwork=True),
    'a directory of the machine': lambda s: s['volumes'].append({'name': 'machine', 'hostPath': {'path': '/'}}),
}


class Cluster:
    def __init__(self, kube, directory):
        self.kube = kube
        self.environment = {'KUBECONFIG': str(kube.directory / 'admin.kubeconfig'), 'PATH': '/usr/bin:/bin',
                            'HOME': str(directory)}

    def kubectl(self, *arguments, **options):
        return run(kubectl(), *arguments, env=self.environment, **options)

    def create_pod(self, pod):
        """The API server's answer: its JSON, or its refusal as text."""
        try:
            return self.kube.call('POST', f'/api/v1/namespaces/{pod["metadata"]["namespace"]}/pods', pod,
                                  fieldValidation='Strict', dryRun='All'), None
        except RuntimeError as refusal:
            return None, str(refusal)

    def applied(self, objects, directory):
        """The API server takes every object of an overlay, names no field unknown and warns of nothing."""
        done = self.kubectl('apply', '--server-side', '--validate=strict', '-k', directory)
        check('Warning' not in done.stderr, done.stderr)
        lines = done.stdout.splitlines()
        check(len(lines) == len(objects) and all(line.endswith('serverside-applied') for line in lines), done.stdout)
        # What it has stored is what was sent: a second time nothing changes.
        again = self.kubectl('diff', '--server-side', '-k', directory, ok=False)
        check(again.returncode == 0, f'it stored something else:\n{again.stdout[:2000]}{again.stderr[:500]}')
        return f'{pathlib.Path(directory).name}: {len(lines)} objects'

    def pods_admitted(self, objects):
        """Pod Security `restricted` admits a pod of each template."""
        made = []
        for workload in workloads(objects):
            namespace = workload['metadata']['namespace']
            level = self.kube.call('GET', f'/api/v1/namespaces/{namespace}')['metadata']['labels']
            check(level.get('pod-security.kubernetes.io/enforce') == 'restricted', f'namespace {namespace}: {level}')
            pod, refusal = self.create_pod(pod_of(workload, namespace))
            check(pod, f'{name(workload)}: {refusal}')
            made.append(pod['metadata']['name'])
        return f'{namespace}: {", ".join(made)}'

    def faults_refused(self, objects):
        """The same pods with one fault each are refused."""
        count = 0
        for workload in workloads(objects):
            for fault, break_it in FAULTS.items():
                pod = pod_of(workload, workload['metadata']['namespace'])
                break_it(pod['spec'])
                _, refusal = self.create_pod(pod)
                check(refusal and 'violates PodSecurity \\"restricted' in refusal,
                      f'{name(workload)} with {fault}: {refusal or "admitted"}')
                count += 1
        return f'{count} refusals'

    def rolled_out(self, objects):
        """The real controllers make the pods and claims, and the disruption budgets let a machine be drained."""
        namespace = workloads(objects)[0]['metadata']['namespace']
        for workload in workloads(objects):
            self.kubectl('-n', namespace, 'rollout', 'status', name(workload).lower(), '--timeout=60s')
        claims = {c['metadata']['name'] for c in self.kube.items(f'/api/v1/namespaces/{namespace}/persistentvolumeclaims')}
        wanted = {f'{c["metadata"]["name"]}-{w["metadata"]["name"]}-{n}' for w in workloads(objects)
                  for c in w['spec'].get('volumeClaimTemplates', []) for n in range(w['spec']['replicas'])}
        check(claims == wanted, f'{claims}, not {wanted}')
        budgets = f'/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets'
        replicas = {w['metadata']['name']: w['spec']['replicas'] for w in workloads(objects)}

        def reckoned():
            return {b['metadata']['name']: b.get('status', {}) for b in self.kube.items(budgets)
                    if b.get('status', {}).get('currentHealthy') == replicas[b['metadata']['name']]}
        wait_for('reckoned: two disruption budgets', lambda: len(reckoned()) == 2, 30)
        allowed = {budget: status['disruptionsAllowed'] for budget, status in reckoned().items()}
        # One at a time, of one as of several.
        check(set(allowed.values()) == {1}, allowed)
        [pod, *_] = self.kube.pods(namespace, labelSelector='app.kubernetes.io/name=nodepool-launcher')
        evicted = pod['metadata']['name']
        self.kube.call('POST', f'/api/v1/namespaces/{namespace}/pods/{evicted}/eviction',
                       {'apiVersion': 'policy/v1', 'kind': 'Eviction', 'metadata': {'name': evicted}})
        wait_for('made anew: the launcher that was evicted', lambda: evicted not in (now := {
            p['metadata']['name'] for p in self.kube.pods(namespace, labelSelector='app.kubernetes.io/name=nodepool-launcher')
            if 'deletionTimestamp' not in p['metadata']}) and len(now) == replicas['nodepool-launcher'], 30)
        return f'{namespace}: {sum(replicas.values())} pods, {len(claims)} claims'

    def misspelt_refused(self, objects):
        """A misspelt field is refused, and not dropped."""
        workload = workloads(objects)[0]
        pod = pod_of(workload, workload['metadata']['namespace'])
        pod['spec']['containers'][0]['readinesProbe'] = {}
        _, refusal = self.create_pod(pod)
        check(refusal and 'unknown field' in refusal and 'readinesProbe' in refusal, refusal or 'admitted')

    def openshift_admitted(self):
        """A pod of each template is admitted with the component `openshift`, too."""
        with tempfile.TemporaryDirectory(dir=KUBERNETES) as directory:
            done = self.kubectl('kustomize', with_component(directory, 'openshift'))
        return self.pods_admitted([d for d in yaml.safe_load_all(done.stdout) if d])

    def service_monitor_type(self):
        """Makes the Prometheus operator's type known to the API server, from the Go types of its own module."""
        built = subprocess.run([HERE / 'servicemonitor-crd'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if built.returncode:
            raise Skip(f'its types cannot be made here: {built.stderr.strip().splitlines()[-1]}')
        self.kubectl('apply', '--server-side', '-f', built.stdout.strip())
        # Not `kubectl wait`: it fails where a new definition has no conditions yet.
        wait_for('served: ServiceMonitors', lambda: 'servicemonitors' in self.kubectl('api-resources', ok=False).stdout, 30)


def checks(counts, overlays, directory, parts):
    missing = Kube.missing()
    if missing:
        def skipped():
            """The manifests and the commands of the document against a real API server."""
            raise Skip(missing)
        counts.run(skipped)
        return
    with Kube(directory / 'kube', workloads=True) as kube:
        cluster = Cluster(kube, directory)
        trial, site = overlays['trial'], overlays['site']

        def site_applied():
            """The API server takes every object of the overlay `site`, the Prometheus operator's among them."""
            cluster.service_monitor_type()
            return cluster.applied(site, KUBERNETES / 'overlays/site')
        if 'cluster' in parts:
            counts.run(cluster.applied, trial, KUBERNETES / 'overlays/trial')
            counts.run(cluster.pods_admitted, trial)
            counts.run(cluster.rolled_out, trial)
            counts.run(cluster.faults_refused, trial)
            counts.run(cluster.misspelt_refused, trial)
            counts.run(cluster.openshift_admitted)
            cluster.kubectl('apply', '-f', KUBERNETES / 'overlays/site/namespace.yaml')
            counts.run(site_applied)
            counts.run(cluster.pods_admitted, site)
            counts.run(cluster.rolled_out, site)
        if 'documents' in parts:
            documents.kubernetes(counts, cluster, directory / 'documents-kubernetes')
