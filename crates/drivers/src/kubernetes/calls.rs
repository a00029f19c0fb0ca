//! [`Session`]: calls that belong together, each with a deadline and a count, and whether it is worth repeating.
//!
//! The kubeconfig may lead to another cluster from one call to the next. So what was made is known to be of a cluster by the
//! client that made it, never by where the kubeconfig leads later: a session sticks to the cluster of its first call, and
//! tells which one that is ([`Session::scope`]).

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use http::Request;
use nodepool_common::model::ProviderName;
use serde_json::Value;
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;

use super::{
    api_error::ApiError,
    cluster::{Cluster, Connection},
};
use crate::{ApiCalls, Context, ErrorClass, Scope};

/// Longest time for one call. A watch is no call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Calls at a time: five hundred launches shall not be five hundred connections.
const AT_A_TIME: usize = 32;
/// How long a namespace that was just made may refuse what will be allowed in it.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Pauses between repetitions.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a list has. An answer that is no list (a gateway's, that of a proxy which wants a login) is an error: it must not
/// pass for "there is nothing".
pub fn items(list: &Value) -> Result<&[Value], ApiError> {
    match list.get("items") {
        Some(Value::Array(items)) => Ok(items),
        Some(Value::Null) => Ok(&[]),
        _ => Err(ApiError::unreadable("a list was asked for, and this is none: it has no `items`")),
    }
}

/// The way to the API of one provider's cluster. Calls are made in a [`Session`].
pub struct Api {
    /// Whose.
    pub provider: ProviderName,
    connection: Connection,
    /// Which cluster the kubeconfig led to when that was found out last.
    leads_to: RwLock<Option<Scope>>,
    calls: ApiCalls,
    permits: Semaphore,
}

impl Api {
    /// Reaches nothing yet.
    pub fn new(provider: ProviderName, context: Option<String>, environment: &Context) -> Self {
        Self {
            provider,
            connection: Connection::new(context, environment.clone()),
            leads_to: RwLock::default(),
            calls: environment.calls.clone(),
            permits: Semaphore::new(AT_A_TIME),
        }
    }

    /// The cluster.
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Which cluster the kubeconfig led to when that was found out last; `None`: it was not yet. What an answer is of, its
    /// [`Session::scope`] tells, not this.
    pub fn leads_to(&self) -> Option<Scope> {
        self.leads_to.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that are made in whatever cluster the kubeconfig leads to at the first of them.
    pub const fn session(&self) -> Session<'_> {
        self.session_in(None)
    }

    /// Calls about something that was made in the cluster that this `driver_data` of its record names; in another one none is
    /// made. `None`: that is not known.
    pub const fn session_in<'a>(&'a self, made_in: Option<&'a Value>) -> Session<'a> {
        Session { api: self, made_in, scope: OnceLock::new() }
    }

    fn note(&self, now: &Scope) {
        if self.leads_to().as_ref() == Some(now) {
            return;
        }
        let before = self.leads_to.write().unwrap_or_else(PoisonError::into_inner).replace(now.clone());
        if let Some(before) = before.filter(|before| now.lacks(Some(&before.driver_data())).is_some()) {
            warn!(
                provider = %self.provider,
                "The kubeconfig leads to {now} now, and not to {before} any more: what was made there cannot be seen or \
                 deleted until it does again"
            );
        }
    }
}

/// See the module's comment.
pub struct Session<'a> {
    api: &'a Api,
    made_in: Option<&'a Value>,
    scope: OnceLock<Scope>,
}

impl Session<'_> {
    /// Which cluster its calls go to; `None`: no call got there yet.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.get()
    }

    /// Its cluster as the files describe it now.
    ///
    /// # Errors
    /// With [`ApiError::elsewhere`], where they lead to another one.
    pub async fn cluster(&self) -> Result<Arc<Cluster>, ApiError> {
        let cluster = self.api.connection.cluster().await?;
        match self.admit(&cluster).await {
            Err(error) if error.code == 401 => {
                let Some(other) = self.api.connection.refused(&cluster).await else { return Err(error) };
                self.admit(&other).await.map(|()| other)
            }
            admitted => admitted.map(|()| cluster),
        }
    }

    /// To be called before anything that a cluster answers is believed: finds out which one it is, and whether that is ours.
    async fn admit(&self, cluster: &Cluster) -> Result<(), ApiError> {
        let now = cluster.identity().await?;
        self.api.note(now);
        let is_another =
            |made_in: Option<&Value>| now.lacks(made_in).map_or(Ok(()), |why| Err(ApiError::elsewhere(why)));
        is_another(self.made_in)?;
        is_another(Some(&self.scope.get_or_init(|| now.clone()).driver_data()))
    }

    /// Makes one call; `call`: its name in the metrics. A call whose credentials were refused is repeated once if there
    /// are others meanwhile.
    ///
    /// # Errors
    /// Also where the kubeconfig leads to another cluster than the one of this session ([`ApiError::elsewhere`]): then nothing
    /// was asked for.
    pub async fn call(&self, call: &'static str, request: &Request<Vec<u8>>) -> Result<Value, ApiError> {
        let api = self.api;
        let mut cluster = api.connection.cluster().await?;
        loop {
            let began = Instant::now();
            let answer = {
                let _permit = api.permits.acquire().await;
                match self.admit(&cluster).await {
                    Ok(()) => tokio::time::timeout(DEADLINE, cluster.client.request::<Value>(request.clone()))
                        .await
                        .map_or_else(|_| Err(ApiError::unanswered(DEADLINE)), |answer| answer.map_err(ApiError::from)),
                    Err(error) if error.elsewhere => return Err(error),
                    Err(error) => Err(error),
                }
            };
            api.calls.record(&api.provider, call, began.elapsed(), answer.as_ref().err().map(ApiError::word));
            match answer {
                Err(error) if error.code == 401 => match api.connection.refused(&cluster).await {
                    Some(other) => cluster = other,
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
    }

    /// The same, repeated while it may come to work.
    pub async fn persist(
        &self,
        call: &'static str,
        request: &Request<Vec<u8>>,
        patience: Patience,
    ) -> Result<Value, ApiError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.call(call, request).await {
                Err(error)
                    if patience.suffices_for(&error, Instant::now()) && Instant::now() + pause < patience.until =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                answer => return answer,
            }
        }
    }
}

/// What a call is repeated for, and until when.
///
/// Always for what is nobody's fault and passes by itself: an error inside the API server (5xx, a webhook that it could not
/// call among them), a quota's record that two wrote at once, a quota that is not reckoned yet.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Instant,
    while_away: bool,
    settled: Option<Instant>,
}

impl Patience {
    /// For the beginning of a launch. That the API is away is told at once: the launcher decides what to do meanwhile.
    pub const fn at_the_beginning(until: Instant) -> Self {
        Self { until, while_away: false, settled: None }
    }

    /// For what follows it, which waits for an API that is away.
    pub const fn in_the_middle(until: Instant) -> Self {
        Self { until, while_away: true, settled: None }
    }

    /// In a namespace or project that was made a moment ago: our rights in it, its account and its security constraints
    /// come a moment later, and not every API server knows it yet.
    #[must_use]
    pub fn in_new_namespace(self) -> Self {
        Self { settled: Some(Instant::now() + SETTLED_WITHIN), ..self }
    }

    fn suffices_for(&self, error: &ApiError, now: Instant) -> bool {
        if error.elsewhere {
            return false;
        }
        if error.away {
            return self.while_away;
        }
        let is_settling = self.settled.is_some_and(|at| now < at)
            && (error.code == 403 && error.class == ErrorClass::Config || error.is_missing());
        // 0: its answer could not be read.
        let is_unwell = error.class == ErrorClass::Transient && matches!(error.code, 0 | 500..);
        is_unwell || is_collision(error) || error.message.contains("status unknown for quota") || is_settling
    }
}

/// The quota's record was written by two at a time: the API's own affair, which it leaves to its callers.
fn is_collision(error: &ApiError) -> bool {
    error.code == 409 && error.reason == "Conflict" && error.message.contains("object has been modified")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, reason: &str, message: &str) -> ApiError {
        ApiError::answered(&kube::core::Status {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..kube::core::Status::default()
        })
    }

    #[test]
    fn a_refusal_is_classed_by_what_it_says() {
        let quota = "pods \"a\" is forbidden: exceeded quota: q, requested: cpu=1,pods=1, used: cpu=4,pods=2, limited: cpu=4,pods=9";
        let too_large = "pods \"a\" is forbidden: exceeded quota: q, requested: requests.memory=8Gi, used: requests.memory=0, limited: requests.memory=4096Mi";
        let cases = [
            (answered(401, "Unauthorized", "Unauthorized"), ErrorClass::Config, false),
            (answered(403, "Forbidden", quota), ErrorClass::Quota, false),
            (answered(403, "Forbidden", too_large), ErrorClass::Config, false),
            (
                answered(403, "Forbidden", "pods is forbidden: User \"u\" cannot create resource"),
                ErrorClass::Config,
                false,
            ),
            (
                answered(403, "Forbidden", "it is forbidden: because it is being terminated"),
                ErrorClass::Transient,
                false,
            ),
            (
                answered(403, "Forbidden", "pods \"a\" is forbidden: status unknown for quota: q, resources: pods"),
                ErrorClass::Transient,
                false,
            ),
            (answered(404, "NotFound", "namespaces \"x\" not found"), ErrorClass::Gone, false),
            (answered(422, "Invalid", "spec.containers: Required value"), ErrorClass::Config, false),
            (answered(429, "TooManyRequests", "later"), ErrorClass::Transient, true),
            (answered(500, "InternalError", "etcd"), ErrorClass::Transient, false),
            (answered(503, "ServiceUnavailable", ""), ErrorClass::Transient, true),
            (ApiError::unanswered(DEADLINE), ErrorClass::Transient, true),
        ];
        for (error, class, away) in cases {
            assert_eq!((error.class, error.away), (class, away), "{error}");
        }
        assert_eq!(ApiError::unanswered(DEADLINE).to_string(), "the API cannot be reached: no answer within 30 s");
    }
    #[test]
    fn what_passes_by_itself_is_repeated() {
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        let (beginning, middle) = (Patience::at_the_beginning(until), Patience::in_the_middle(until));
        let (young, now) = (middle.in_new_namespace(), Instant::now());
        let webhook = "Internal error occurred: failed calling webhook \"w\": context deadline exceeded";
        let collision =
            "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified; please try again";
        let cases = [
            (answered(500, "InternalError", webhook), [true, true, true]),
            (answered(409, "Conflict", collision), [true, true, true]),
            (answered(403, "Forbidden", "pods \"a\" is forbidden: status unknown for quota: q"), [true, true, true]),
            (answered(503, "ServiceUnavailable", ""), [false, true, true]),
            (answered(403, "Forbidden", "secrets is forbidden: User \"u\" cannot create"), [false, false, true]),
            (
                answered(403, "Forbidden", "unable to validate against any security context constraint"),
                [false, false, true],
            ),
            (answered(404, "NotFound", "namespaces \"x\" not found"), [false, false, true]),
            (answered(403, "Forbidden", "it is forbidden: because it is being terminated"), [false, false, false]),
            (
                answered(403, "Forbidden", "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
                [false; 3],
            ),
            (answered(409, "AlreadyExists", "pods \"a\" already exists"), [false; 3]),
            (answered(422, "Invalid", "spec.containers: Required value"), [false; 3]),
        ];
        for (error, expected) in cases {
            let repeated = [beginning, middle, young].map(|patience| patience.suffices_for(&error, now));
            assert_eq!(repeated, expected, "{error}");
        }
        let refused = answered(403, "Forbidden", "secrets is forbidden: User \"u\" cannot create");
        assert!(!young.suffices_for(&refused, now + SETTLED_WITHIN * 2), "it is not young for ever");
    }
}
