//! A pod's `spec`, and the one container that is described by keys: what the API surely refuses.

use super::{check, check_errors, lines, load};

fn label(keys: &str) -> String {
    format!(
        "labels: [{{name: l}}]\nproviders:\n- name: k\n  driver: kubernetes\n  pools:\n  - name: main\n    labels:\n    - {{name: l, \
         type: pod, {keys}}}\n"
    )
}

/// That `config-validate` refuses it so, once, and the daemons warn.
fn refused(keys: &str, expected: &str) {
    let text = label(keys);
    let errors = check_errors(&text);
    assert!(errors.contains(expected) && errors.lines().count() == 1, "{expected}\n{keys}\n{errors}");
    let loaded = load(&text);
    assert!(loaded.broken_parts.is_empty() && !loaded.warnings.is_empty(), "{keys}: {loaded:?}");
}

#[test]
fn a_spec_that_makes_no_pod_is_refused() {
    for (spec, expected) in [
        (
            "{nodeName: n}",
            "its `spec` has no `containers`, and Kubernetes refuses such a pod (write them as in a pod: ",
        ),
        (
            "{container: [{name: a, image: b}]}",
            "its `spec` has no `containers`, and Kubernetes refuses such a pod (did you mean `containers`?)",
        ),
        ("{containers: []}", "its `spec` has no `containers`"),
        (
            "{containers: {name: a, image: b}}",
            "its `spec` has a mapping for `containers`, which must be a list, and Kubernetes refuses such a pod (begin each item with \
             a dash: `- name: a`",
        ),
        (
            "{spec: {containers: [{name: a, image: b}]}}",
            "it is a whole manifest, and Kubernetes refuses such a pod (write only what stands below that second `spec`",
        ),
        ("{apiVersion: v1, kind: Pod, spec: {containers: []}}", "it is a whole manifest"),
        ("{containers: [{image: b}]}", "a container of its `spec` has no `name`, and Kubernetes refuses"),
        (
            "{containers: [{nmae: a, image: b}]}",
            "has no `name`, and Kubernetes refuses such a pod (did you mean `name`?)",
        ),
        ("{containers: [{name: a}]}", "container `a` of its `spec` has no `image`"),
        ("{containers: [{name: a, image: ''}]}", "container `a` of its `spec` has no `image`"),
        (
            "{containers: [{name: a, imgae: b}]}",
            "has no `image`, and Kubernetes refuses such a pod (did you mean `image`?)",
        ),
        ("{containers: [a]}", "its `spec` has the text `a` for a container"),
        (
            "{containers: [{name: A_b, image: i}]}",
            "container `A_b` of its `spec` cannot have that name: it may have lower-case",
        ),
        (
            "{containers: [{name: a, image: i}, {name: a, image: j}]}",
            "container `a` of its `spec` is not the only one of that name",
        ),
        (
            "{containers: [{name: a, image: i}], initContainers: [{name: b}]}",
            "container `b` of its `spec` has no `image`",
        ),
        (
            "{containers: [{name: a, image: i, command: sleep 5}]}",
            "has the text `sleep 5` for `command`, which must be a list, and Kubernetes refuses such a pod (write `command: ['sleep', '5']`)",
        ),
        ("{containers: [{name: a, image: i, env: {A: b}}]}", "(write `- {name: A, value: …}`)"),
        ("{containers: [{name: a, image: i, env: [{value: b}]}]}", "has a variable without a `name` in `env`"),
        (
            "{containers: [{name: a, image: i, resources: {limits: {memory: 2GB}}}]}",
            "has `2GB` as its `memory` in `limits`, which is no amount",
        ),
        (
            "{containers: [{name: a, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 500m}}}]}",
            "asks for 2 of `cpu`, more than its limit, 500m",
        ),
        (
            "{containers: [{name: a, image: i, volumeMounts: [{name: date, mountPath: /d}]}], volumes: [{name: data, emptyDir: {}}]}",
            "mounts `date` in `volumeMounts`, and there is no such volume, and Kubernetes refuses such a pod (did you mean `data`?)",
        ),
        (
            "{containers: [{name: a, image: i, volumeMounts: [{name: data}]}], volumes: [{name: data, emptyDir: {}}]}",
            "mounts `data` in `volumeMounts` without a `mountPath`",
        ),
    ] {
        refused(&format!("spec: {spec}"), expected);
    }
    refused(
        "image: i, volume-mounts: [{name: v, mountPath: /v}]",
        "its pod mounts `v` in `volume-mounts`, and there is no such volume, and Kubernetes refuses such a pod (add `- name: v` to `volumes`",
    );
    for good in [
        "spec: {containers: [{name: a, image: i, resources: {requests: {cpu: 500m}, limits: {cpu: 1}}}], volumes: []}",
        "spec: {containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, emptyDir: {}}]}",
        "image: i, volumes: [{name: v, emptyDir: {}}], volume-mounts: [{name: v, mountPath: /v}]",
        "spec: {containers: [{name: a, image: i, x-site: 1}], dnsPolicy: Default}",
    ] {
        assert_eq!(check(&label(good)), "", "{good}");
    }
    let beside = label("image: i")
        .replace("{name: l, type: pod, image: i}", "name: l\n      type: pod\n      spec:\n      containers: []");
    let errors = check_errors(&beside);
    assert!(errors.lines().count() == 1 && errors.contains("(indent `containers`, and what else"), "{errors}");
    let text = label("spec: containers");
    let errors = check_errors(&text);
    assert!(errors.ends_with("(write the pod as it is: `spec: {containers: [{name: …, image: …}]}`)"), "{errors}");
}

#[test]
fn what_the_api_drops_from_a_spec_is_a_warning() {
    let warned = check(&label("spec: {tolerants: [], containers: [{name: a, image: i, comand: [x]}]}"));
    assert!(
        warned.contains(
            "Kubernetes knows no `comand` in container `a` of its `spec`, and drops it (did you mean `command`?)"
        ),
        "{warned}"
    );
    assert!(
        warned.contains("knows no `tolerants` in its `spec`, and drops it (did you mean `tolerations`?)"),
        "{warned}"
    );
}

#[test]
fn what_stands_beside_a_spec_is_told_its_place_within() {
    for (keys, expected) in [
        (
            "cpu: 500m",
            "`cpu` beside `spec`, which describes the whole pod (write it within `spec`, as `resources: {requests: {cpu: 500m}}` of `spec.containers[0]`, container `a`)",
        ),
        ("memory: 512", "as `resources: {requests: {memory: 512Mi}}` of `spec.containers[0]`"),
        ("memory-limit: 2Gi", "as `resources: {limits: {memory: 2Gi}}` of"),
        ("storage-limit: 5", "as `resources: {limits: {ephemeral-storage: 5M}}` of"),
        ("node-selector: {a: b}", "(write it within `spec`, as `nodeSelector`)"),
        ("image-pull: Never", "as `imagePullPolicy: Never` of a container)"),
        ("python-path: /p", "(leave it out: Python Nodepool's config-validate refuses it there)"),
    ] {
        let errors = check_errors(&label(&format!("{keys}, spec: {{containers: [{{name: a, image: b}}]}}")));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{keys}: {errors}");
    }
    let errors = check_errors(&label("cpu: 1, spec: {containers: [{name: a, image: b}, {name: c, image: b}]}"));
    assert!(errors.contains("of its container, `spec.containers[…]`)"), "{errors}");
}

#[test]
fn a_limit_below_what_is_asked_for_is_refused() {
    refused(
        "image: i, cpu: 4, cpu-limit: 2",
        "`cpu-limit` is 2, less than `cpu`, 4, and Kubernetes refuses such a pod (write `cpu-limit: 4` or more)",
    );
    refused("image: i, memory: 400, memory-limit: 200", "`memory-limit` is 200, less than `memory`, 400");
    refused("image: i, storage: 4, storage-limit: 2", "`storage-limit` is 2, less than `storage`, 4");
    let pool = |keys: &str| label("image: i, cpu: 4").replace("- name: main\n", &format!("- name: main\n    {keys}\n"));
    let errors = check_errors(&pool("default-label-cpu-limit: 2"));
    assert!(errors.contains("`default-label-cpu-limit` of its pool is 2, less than `cpu`, 4"), "{errors}");
    assert!(lines(&load(&pool("default-label-cpu-limit: 2")).warnings).contains("less than `cpu`"));
    for good in ["image: i, cpu: 4, cpu-limit: 4", "image: i, cpu: 4, cpu-limit: 0", "image: i, cpu: 4"] {
        assert_eq!(check(&label(good)), "", "{good}");
    }
}
