//! `create openshiftpods-namespace`: what a site makes once, before its provider can begin.
//!
//! It needs a kubeconfig, and neither our configuration nor ZooKeeper. What is printed on stdout is what was asked for:
//! manifests, the kubeconfig, the template; what was done is told on stderr.

use nodepool_drivers::{Context, PodsNamespace, ProvidersSecret, Stored, pods_namespace};
use serde_json::json;

use crate::{
    args::{Create, PodsNamespaceOptions},
    failure::{Failure, say, say_aside},
};

/// Runs it.
pub async fn run(what: &Create) -> Result<(), Failure> {
    let Create::OpenshiftpodsNamespace(options) = what;
    let environment = Context::from_env();
    let name = &options.nodepool_namespace;
    if !is_label(name) {
        return Err(Failure::Refused(format!(
            "{name:?} is no name for a namespace: lower case letters, digits and - between them, 63 at most"
        )));
    }
    let namespace = PodsNamespace::new(name, options.nodepool_context.clone(), &environment);
    if options.dry_run {
        for manifest in namespace.manifests() {
            say("---")?;
            say(pods_namespace::yaml(&manifest)?.trim_end())?;
        }
    } else {
        make(&namespace, options, &environment).await?;
    }
    if options.show_config_template {
        say("Nodepool configuration template:")?;
        say(&template(name)?)?;
    }
    Ok(())
}

async fn make(namespace: &PodsNamespace, options: &PodsNamespaceOptions, environment: &Context) -> Result<(), Failure> {
    if let Some(address) = namespace.loopback_address().await? {
        if !options.skip_providers_secrets {
            return Err(Failure::Refused(format!(
                "{address} cannot be reached from a launcher's pod: name a context whose server has another address with \
                 --nodepool-context, or have the kubeconfig printed with --skip-providers-secrets"
            )));
        }
        say_aside(&format!("{address} can be reached from this machine only"));
    }
    for prepared in namespace.prepare().await? {
        let what = if prepared.is_new { "created" } else { "is there already" };
        say_aside(&format!("{}: {what}", prepared.object));
    }
    let kubeconfig = namespace.kubeconfig().await?;
    if options.skip_providers_secrets {
        say("Provider kubeconfig:")?;
        return say(&pods_namespace::yaml(&kubeconfig)?);
    }
    let secret = ProvidersSecret::new(options.namespace.clone(), options.kube_context.clone(), environment);
    let what = match secret.store(&kubeconfig).await? {
        Stored::Created => "created",
        Stored::Updated => "updated",
        Stored::Unchanged => "already up to date, doing nothing",
    };
    say_aside(&format!("{}: {what}", secret.describe().await?));
    Ok(())
}

/// Whether it may name a namespace (RFC 1123).
fn is_label(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63
        && name.starts_with(inside)
        && name.ends_with(inside)
        && name.chars().all(|c| inside(c) || c == '-')
}

fn template(namespace: &str) -> Result<String, Failure> {
    let template = json!({
        "labels": [{"name": "fedora-latest"}],
        "providers": [{
            "name": "openshiftpods",
            "driver": "openshiftpods",
            "context": pods_namespace::CONTEXT,
            "pools": [{
                "name": namespace,
                "labels": [{"name": "fedora-latest", "image": "quay.io/fedora/fedora:latest"}],
            }],
        }],
    });
    Ok(pods_namespace::yaml(&template)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_name_that_the_api_takes() {
        assert!(["a", "nodepool", "sf-nodepool-2", "0"].into_iter().all(is_label));
        let long = "a".repeat(64);
        assert!(!["", "-a", "a-", "A", "a_b", "a.b", "a/b", &long].into_iter().any(is_label));
    }
}
