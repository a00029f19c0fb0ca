//! What a pod's status means for a launch. Pure.
//!
//! Ready is a pod that runs and whose `Ready` condition says so: upstream hands it out as soon as one container runs,
//! whatever a readiness probe says. A pod that has ended ends the attempt. What a kubelet tries to overcome (a registry
//! that is away, a secret that is yet to come, a crash) is a trouble: it is waited for as long as the attempt may take.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use crate::ErrorClass;

/// What a kubelet cannot overcome without help.
const HOPELESS: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];
/// What it tries to.
const TROUBLES: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PostStartHookError",
];
/// Troubles that lie in what was asked for.
const OURS: [&str; 1] = ["CreateContainerConfigError"];

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is to be waited for; the class is that of giving up.
    Waiting(ErrorClass, String),
    /// Something is wrong that may pass.
    Trouble(ErrorClass, String),
    /// It can be used.
    Ready {
        /// The Kubernetes node that it runs on.
        on: Option<String>,
    },
    /// It will never be.
    Over(ErrorClass, String),
}

/// Whether a pod that was ready is of no use any more, and why: it has ended, or it is being deleted. A container that is
/// started anew may recover.
pub fn has_ended(pod: &Pod) -> Option<String> {
    match of(pod) {
        Life::Over(_, why) => {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let has_ended = matches!(phase, Some("Failed" | "Succeeded")) || pod.metadata.deletion_timestamp.is_some();
            has_ended.then_some(why)
        }
        _ => None,
    }
}

/// What a pod's status says.
pub fn of(pod: &Pod) -> Life {
    let Some(status) = &pod.status else {
        return Life::Waiting(ErrorClass::Timeout, "it has no status yet".to_owned());
    };
    match status.phase.as_deref() {
        Some("Failed") => return Life::Over(ErrorClass::Transient, format!("it failed: {}", how_it_ended(status))),
        Some("Succeeded") => {
            let why = format!("it has ended by itself: {}", how_it_ended(status));
            return Life::Over(ErrorClass::Config, why);
        }
        _ => {}
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Life::Over(ErrorClass::Transient, "somebody is deleting it".to_owned());
    }
    for container in containers(status) {
        if let Some(life) = of_container(container) {
            return life;
        }
    }
    if let Some(why) = condition(status, "PodScheduled", "False") {
        return Life::Waiting(ErrorClass::Capacity, format!("it is not scheduled: {why}"));
    }
    if status.phase.as_deref() == Some("Running") && condition(status, "Ready", "True").is_some() {
        return Life::Ready { on: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) };
    }
    Life::Waiting(ErrorClass::Timeout, what_it_waits_for(status))
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

fn of_container(container: &ContainerStatus) -> Option<Life> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let name = &container.name;
    let said = waiting.message.as_deref().unwrap_or("no reason given");
    if reason == "CrashLoopBackOff" {
        let last = container.last_state.as_ref().and_then(ended).unwrap_or_else(|| said.to_owned());
        let times = container.restart_count;
        let why = format!("container {name} ends again and again ({times} restarts): {last}");
        return Some(Life::Trouble(ErrorClass::Transient, why));
    }
    if HOPELESS.contains(&reason) {
        return Some(Life::Over(ErrorClass::Config, format!("container {name}: {reason}: {said}")));
    }
    if TROUBLES.contains(&reason) {
        let class = if OURS.contains(&reason) { ErrorClass::Config } else { ErrorClass::Transient };
        return Some(Life::Trouble(class, format!("container {name}: {reason}: {said}")));
    }
    None
}

/// What a condition says, if it has that status.
fn condition(status: &PodStatus, kind: &str, wanted: &str) -> Option<String> {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
    (condition.status == wanted).then(|| {
        let parts = [&condition.reason, &condition.message];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(": ")
    })
}

fn how_it_ended(status: &PodStatus) -> String {
    let mut parts: Vec<String> = [&status.reason, &status.message].into_iter().flatten().cloned().collect();
    parts.extend(containers(status).filter_map(|container| {
        let how = ended(container.state.as_ref()?)?;
        Some(format!("container {}: {how}", container.name))
    }));
    if parts.is_empty() { "no reason given".to_owned() } else { parts.join(": ") }
}

fn ended(state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    let mut text = format!("exit code {}", ended.exit_code);
    for part in [&ended.reason, &ended.message].into_iter().flatten().filter(|part| !part.is_empty()) {
        text.push_str(", ");
        text.push_str(part.trim());
    }
    Some(text)
}

fn what_it_waits_for(status: &PodStatus) -> String {
    let phase = status.phase.as_deref().unwrap_or("unknown");
    let waiting = containers(status).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let parts = [&waiting.reason, &waiting.message];
        Some(format!(
            "container {}: {}",
            container.name,
            parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(": ")
        ))
    });
    let not_ready = condition(status, "Ready", "False").filter(|why| !why.is_empty());
    let details = [waiting, not_ready].into_iter().flatten().collect::<Vec<_>>().join("; ");
    if details.is_empty() { format!("its phase is {phase}") } else { format!("its phase is {phase}: {details}") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn life(status: &Value) -> Life {
        of(&serde_json::from_value(json!({"spec": {"nodeName": "n", "containers": []}, "status": status})).unwrap())
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state, "lastState": last})
    }

    #[test]
    fn it_is_ready_when_it_runs_and_says_so() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(life(&json!({"phase": "Running", "conditions": ready})), Life::Ready { on: Some("n".to_owned()) });
        let probe =
            json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "unready: [c]"}]);
        assert_eq!(
            life(&json!({"phase": "Running", "conditions": probe})),
            Life::Waiting(ErrorClass::Timeout, "its phase is Running: ContainersNotReady: unready: [c]".to_owned())
        );
        assert!(matches!(life(&json!({})), Life::Waiting(ErrorClass::Timeout, _)));
    }

    #[test]
    fn a_trouble_is_told_with_its_own_words() {
        let pull = container(
            &json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"i\""}}),
            &json!({}),
        );
        assert_eq!(
            life(&json!({"phase": "Pending", "containerStatuses": [pull]})),
            Life::Trouble(
                ErrorClass::Transient,
                "container c: ImagePullBackOff: Back-off pulling image \"i\"".to_owned()
            )
        );
        let crash = container(
            &json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            &json!({"terminated": {"exitCode": 1, "reason": "Error"}}),
        );
        assert_eq!(
            life(
                &json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [crash]})
            ),
            Life::Trouble(
                ErrorClass::Transient,
                "container c ends again and again (2 restarts): exit code 1, Error".to_owned()
            )
        );
        let name = container(&json!({"waiting": {"reason": "InvalidImageName", "message": "no"}}), &json!({}));
        assert!(matches!(
            life(&json!({"phase": "Pending", "containerStatuses": [name]})),
            Life::Over(ErrorClass::Config, _)
        ));
        let secret = container(
            &json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}}),
            &json!({}),
        );
        assert!(matches!(
            life(&json!({"phase": "Pending", "initContainerStatuses": [secret]})),
            Life::Trouble(ErrorClass::Config, _)
        ));
        let room =
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]);
        assert_eq!(
            life(&json!({"phase": "Pending", "conditions": room})),
            Life::Waiting(ErrorClass::Capacity, "it is not scheduled: Unschedulable: 0/2 nodes".to_owned())
        );
    }

    #[test]
    fn what_has_ended_ends_the_launch() {
        assert_eq!(
            life(&json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource"})),
            Life::Over(ErrorClass::Transient, "it failed: Evicted: The node was low on resource".to_owned())
        );
        let done = container(&json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), &json!({}));
        assert_eq!(
            life(&json!({"phase": "Succeeded", "containerStatuses": [done]})),
            Life::Over(ErrorClass::Config, "it has ended by itself: container c: exit code 0, Completed".to_owned())
        );
    }
    #[test]
    fn of_a_pod_that_was_ready_an_end_counts_and_a_restart_does_not() {
        let ended = |status: Value, metadata: Value| {
            has_ended(&serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
        };
        assert_eq!(
            ended(json!({"phase": "Failed", "reason": "Evicted"}), json!({})),
            Some("it failed: Evicted".to_owned())
        );
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(ended(json!({"phase": "Running"}), deleted), Some("somebody is deleting it".to_owned()));
        let crash = container(&json!({"waiting": {"reason": "CrashLoopBackOff"}}), &json!({}));
        assert_eq!(ended(json!({"phase": "Running", "containerStatuses": [crash]}), json!({})), None);
    }
}
