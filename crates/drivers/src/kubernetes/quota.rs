//! What a namespace's `ResourceQuota` objects allow, in the names that limits and nodes have.
//!
//! Only what a pod is sure to take is reckoned with: `pods`, and requests. Quotas on limits, and those with a scope, make
//! themselves known when the API refuses a pod.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use nodepool_common::model::Resources;

use crate::Quota;

/// The tightest of the quotas for each resource.
pub fn of(quotas: &[ResourceQuota]) -> Quota {
    let mut limits = Resources::new();
    let mut used = Resources::new();
    for quota in quotas {
        let Some(status) = &quota.status else { continue };
        let scoped = quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some());
        if scoped {
            continue;
        }
        for (name, hard) in status.hard.iter().flatten() {
            let Some((resource, unit)) = resource(name) else { continue };
            let Some(hard) = quantity(&hard.0) else { continue };
            let in_use = status.used.as_ref().and_then(|used| quantity(&used.get(name)?.0)).unwrap_or(0.0);
            let (hard, in_use) = (hard / unit, in_use / unit);
            if hard - in_use < limits.limit(&resource) - used.amount(&resource) {
                limits.set(&resource, hard);
                used.set(&resource, in_use);
            }
        }
    }
    Quota { limits, used }
}

/// What a pod is sure to take.
pub fn taken_by(pod: &Pod) -> Resources {
    let mut taken = Resources::new().with("instances", 1.0);
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        for (name, amount) in requests.into_iter().flatten() {
            if let (Some((resource, unit)), Some(amount)) = (resource(name), quantity(&amount.0)) {
                taken.add(&Resources::new().with(&resource, amount / unit));
            }
        }
    }
    taken
}

/// Our name of a resource, and how much one of ours is.
fn resource(name: &str) -> Option<(String, f64)> {
    let bare = name.strip_prefix("requests.").unwrap_or(name);
    Some(match bare {
        "pods" | "count/pods" => ("instances".to_owned(), 1.0),
        "cpu" => ("cores".to_owned(), 1.0),
        "memory" => ("ram".to_owned(), 1024.0 * 1024.0),
        "ephemeral-storage" => ("ephemeral-storage".to_owned(), 1e6),
        // Extended resources, a GPU's above all.
        other if other.contains('/') && !other.starts_with("count/") => (other.to_owned(), 1.0),
        _ => return None,
    })
}

/// The number that a quantity is: `500m`, `4`, `8Gi`, `10M`, `1e3`.
pub fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let text = text.trim();
    if let Ok(plain) = text.parse::<f64>() {
        return plain.is_finite().then_some(plain);
    }
    let (number, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_numbers() {
        for (text, number) in [("500m", 0.5), ("4", 4.0), ("8Gi", 8_589_934_592.0), ("10M", 1e7), ("1e3", 1e3)] {
            assert_eq!(quantity(text), Some(number), "{text}");
        }
        assert_eq!((quantity("x"), quantity("Gi"), quantity("inf")), (None, None, None));
    }

    #[test]
    fn the_tightest_quota_counts_in_our_names() {
        let quotas = json!([
            {"status": {"hard": {"pods": "10", "requests.cpu": "8", "limits.cpu": "9"}, "used": {"pods": "2", "requests.cpu": "500m"}}},
            {"status": {"hard": {"count/pods": "5", "memory": "2Gi"}, "used": {"count/pods": "2", "memory": "0"}}},
            {"spec": {"scopes": ["BestEffort"]}, "status": {"hard": {"pods": "1"}}},
        ]);
        let quotas: Vec<ResourceQuota> = serde_json::from_value(quotas).unwrap();
        let quota = of(&quotas);
        assert_eq!(quota.limits, Resources::new().with("instances", 5.0).with("cores", 8.0).with("ram", 2048.0));
        assert_eq!(quota.used, Resources::new().with("instances", 2.0).with("cores", 0.5).with("ram", 0.0));
    }
}
