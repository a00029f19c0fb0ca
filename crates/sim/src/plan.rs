//! [`Plan`]: what a seed decides before a history begins: its shape, and which kinds of trouble it has. What happens when is drawn
//! on the way, by each actor's own [`Chance`].

use std::{collections::BTreeSet, fmt, time::Duration};

use serde_json::{Value, json};

use super::chance::Chance;

/// The kinds of trouble, each named once: what is not in the list of all is never drawn.
macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A kind of trouble. Each history has some of them: those that leave one out find what it would hide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Trouble {
            $($(#[$doc])* $name,)+
        }

        /// All of them.
        pub const TROUBLES: &[Trouble] = &[$(Trouble::$name),+];
    };
}

troubles! {
    /// ZooKeeper carries a request out, and the connection breaks before the answer.
    AnswersLost,
    /// The connection breaks with a request on its way.
    RequestsLost,
    /// A launcher's connection breaks for some seconds.
    Breaks,
    /// It breaks for longer than a session lasts.
    Expiry,
    /// Answers and events take up to a second.
    Slow,
    /// The clouds answer with errors.
    CloudErrors,
    /// A server is made, and its answer lost.
    CreationsLost,
    /// A call takes minutes and fails.
    Hangs,
    /// The clouds are away for a while.
    Away,
    /// Others take of the quota.
    Others,
    /// There is no room.
    NoRoom,
    /// Servers do not boot, or cannot be reached.
    BootsFail,
    /// Deleted servers stay for minutes.
    Lingering,
    /// Servers vanish.
    Vanishing,
    /// Zuul's session ends.
    ZuulDies,
    /// Zuul withdraws requests.
    Withdrawn,
    /// Zuul changes priorities.
    Revised,
    /// Nodes are held.
    Held,
    /// A launcher is killed; its session expires later.
    Killed,
    /// It is killed between a cloud's answer and its record.
    KilledAtCreation,
    /// It is stopped and started again.
    Restarted,
    /// The configuration changes.
    Reconfigured,
    /// A launcher's clock is set.
    ClockSet,
    /// Somebody deletes contenders for locks that launchers have.
    LocksBroken,
    /// Zuul makes several requests in the same moment.
    Bursts,
    /// A launcher of Python Nodepool's takes part, declines, serves and dies.
    Peer,
}

/// `launch-retries` of each provider.
pub const LAUNCH_RETRIES: usize = 2;

/// Room for all that ten requests of five nodes each may ask for, and for the stock.
const ROOMY: usize = 60;

/// A label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    pub min_ready: usize,
    pub max_ready_age: u64,
}

/// A pool of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub provider: &'static str,
    pub name: &'static str,
    pub max_servers: usize,
    pub labels: Vec<&'static str>,
}

impl Pool {
    /// As launchers name it.
    pub fn full_name(&self) -> String {
        format!("{}-{}", self.provider, self.name)
    }
}

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub troubles: BTreeSet<Trouble>,
    /// Launchers with the same pools.
    pub replicas: usize,
    /// How many servers each cloud allows.
    pub quota: usize,
    pub labels: Vec<Label>,
    pub pools: Vec<Pool>,
    /// How many requests there are in all.
    pub requests: usize,
    /// How many nodes a request may ask for.
    pub most_nodes: usize,
    /// When requests and troubles end.
    pub calm_after: Duration,
}

impl Plan {
    /// That of a seed.
    pub fn of(seed: u64) -> Self {
        let chance = Chance::of(seed, "plan");
        // Each history leaves some out, and some have few.
        let share = *chance.pick(&[2, 2, 3, 5]);
        let mut troubles = BTreeSet::new();
        if !chance.one_in(20) {
            // Those that came later than the others do not change which of these a history has.
            let later = [(Trouble::LocksBroken, "locks"), (Trouble::Bursts, "bursts"), (Trouble::Peer, "peer")];
            let drawn = TROUBLES.iter().filter(|trouble| later.iter().all(|(of, _)| of != *trouble));
            troubles.extend(drawn.copied().filter(|_| chance.one_in(share)));
            troubles
                .extend(later.iter().filter(|(_, name)| Chance::of(seed, name).one_in(4)).map(|(trouble, _)| *trouble));
        }
        let names = ["a", "b", "c"];
        let labels: Vec<_> = names[..=chance.below(3)]
            .iter()
            .map(|name| Label {
                name,
                min_ready: *chance.pick(&[0, 0, 1, 2]),
                max_ready_age: *chance.pick(&[0, 0, 600]),
            })
            .collect();
        let places = [("p", "main"), ("p", "second"), ("q", "main")];
        let pools = match chance.below(3) {
            0 => &places[..1],
            1 => &places[1..],
            _ => &places[..],
        };
        let replicas = *chance.pick(&[1, 1, 2, 3]);
        let is_shared = replicas > 1 || pools.len() == 3 || pools[0].0 == pools[pools.len() - 1].0 && pools.len() > 1;
        // Where several workers share a quota or a limit that is too small for all, each may come to hold a part of what its
        // request needs, and all wait for each other, for ever. That is known, as it is of upstream's; so there either is room, or
        // requests ask for one node each.
        let is_roomy = is_shared && chance.one_in(2);
        let pools = pools
            .iter()
            .map(|(provider, name)| {
                let mut of_pool: Vec<_> = labels.iter().map(|label| label.name).filter(|_| !chance.one_in(4)).collect();
                if of_pool.is_empty() {
                    of_pool.push(names[0]);
                }
                let max_servers = if is_roomy { ROOMY } else { 2 + chance.below(8) };
                Pool { provider, name, max_servers, labels: of_pool }
            })
            .collect();
        Self {
            seed,
            troubles,
            replicas,
            quota: if is_roomy { ROOMY } else { 3 + chance.below(12) },
            labels,
            pools,
            requests: if is_roomy { 10 } else { *chance.pick(&[5, 10, 20, 40]) },
            most_nodes: if is_shared && !is_roomy { 1 } else { 5 },
            calm_after: Duration::from_secs(*chance.pick(&[900, 1800, 2400])),
        }
    }

    /// Whether it has that trouble.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// The names of the providers.
    pub fn providers(&self) -> BTreeSet<&'static str> {
        self.pools.iter().map(|pool| pool.provider).collect()
    }

    /// The configuration file.
    pub fn config(&self) -> Value {
        let providers: Vec<_> = self
            .providers()
            .into_iter()
            .map(|provider| {
                let pools: Vec<_> = self.pools.iter().filter(|pool| pool.provider == provider).map(config_of).collect();
                json!({
                    "name": provider, "driver": "fake", "cloud": "fake", "launch-timeout": 300, "boot-timeout": 120,
                    "launch-retries": LAUNCH_RETRIES, "cloud-images": [{"name": "image", "username": "zuul"}], "pools": pools,
                })
            })
            .collect();
        let labels: Vec<_> = self
            .labels
            .iter()
            .map(|label| {
                let Label { name, min_ready, max_ready_age } = label;
                json!({"name": name, "min-ready": min_ready, "max-ready-age": max_ready_age})
            })
            .collect();
        json!({
            "zookeeper-servers": [{"host": "127.0.0.1", "port": 2281}], "labels": labels, "providers": providers,
        })
    }
}

fn config_of(pool: &Pool) -> Value {
    let labels: Vec<_> =
        pool.labels.iter().map(|label| json!({"name": label, "cloud-image": "image", "min-ram": 1})).collect();
    json!({"name": pool.name, "max-servers": pool.max_servers, "labels": labels})
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} launchers, {} requests of up to {} nodes in {} s, {} servers in each cloud",
            self.seed,
            self.replicas,
            self.requests,
            self.most_nodes,
            self.calm_after.as_secs(),
            self.quota
        )?;
        for label in &self.labels {
            writeln!(
                f,
                "  label {}: min-ready {}, max-ready-age {}",
                label.name, label.min_ready, label.max_ready_age
            )?;
        }
        for pool in &self.pools {
            writeln!(
                f,
                "  pool {}-{}: max-servers {}, labels {:?}",
                pool.provider, pool.name, pool.max_servers, pool.labels
            )?;
        }
        write!(f, "  troubles: {:?}", self.troubles)
    }
}
