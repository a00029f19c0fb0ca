//! [`Reason`]: why something is decided, or is not yet.
//!
//! A reason is data: what is short, by how much, who is waited for. It is put into words in one place (its `Display`), for the
//! log, for `decline_reasons`, for comments on nodes and for `/pool-list`, which has the data too ([`serde::Serialize`]).

use std::fmt;

use nodepool_common::{
    config::HostId,
    model::{
        ImageName, LabelName, LauncherId, NodeId, NodeState, PausedBy, ProviderName, RequestId, TenantName, Timestamp,
    },
};
use serde::{Serialize, Serializer};

use super::Want;

/// Why something is decided, or is not yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Reason {
    // Of requests that wait, and of those that are declined.
    /// Something has to be found out first.
    Unknown {
        /// What.
        want: Want,
        /// Whether it is known, but too old and too small to decline on.
        is_too_old: bool,
        /// Why the cloud does not answer.
        trouble: Option<String>,
    },
    /// A person of the site has paused the pool.
    Paused(PausedBy),
    /// The pool has `max-servers: 0` or the like.
    PoolDisabled,
    /// The pool does not have these labels.
    LabelsMissing {
        /// Which.
        labels: Vec<LabelName>,
        /// Those of them that it would have, but for an error in the file.
        broken: Vec<BrokenLabel>,
    },
    /// The cloud or the configuration makes a label impossible.
    LabelUnusable(BrokenLabel),
    /// A label has nothing to boot from.
    ImageMissing {
        /// Which.
        label: LabelName,
        /// The diskimage without a ready upload; `None`: it is an image of the cloud's.
        image: Option<ImageName>,
    },
    /// It takes more than there is when nothing else of ours runs; where others in the project use the rest, it waits.
    AloneTooLarge(Excess),
    /// What is left is not enough for one more node of a label.
    NoRoom {
        /// Which.
        label: LabelName,
        /// What is short.
        #[serde(flatten)]
        excess: Excess,
    },
    /// What is left to the tenant is not enough.
    TenantFull {
        /// Which.
        tenant: TenantName,
        /// What is short.
        #[serde(flatten)]
        excess: Excess,
    },
    /// The cloud has refused a launch for lack of quota.
    QuotaRefused {
        /// Until when nothing is launched.
        until: Timestamp,
    },
    /// No node of a static pool is free.
    NoneFree {
        /// Of which label.
        label: LabelName,
    },
    /// As many launches are running as may.
    MaxConcurrency {
        /// How many.
        running: usize,
        /// `max-concurrency`.
        most: usize,
    },
    /// A request for nodes in stock does not wait.
    AtCapacity {
        /// What is short.
        of: Box<Reason>,
    },
    /// Earlier requests of this pool wait for room; or they are being served, and what they will still need is not known at this
    /// moment.
    BehindOthers {
        /// Whether it is accepted itself.
        is_accepted: bool,
    },
    /// As many requests are just being accepted as may be at once.
    TurnToCome,
    /// The request prefers a provider that may serve it.
    LeftToProvider {
        /// Which.
        provider: ProviderName,
    },
    /// A pool of higher priority may serve it.
    LeftToPriority {
        /// Which.
        pool: LauncherId,
    },
    /// Others have its labels.
    LeftToPoolsWithLabels,
    /// Another launcher places the nodes of this provider.
    LeftToKeeper {
        /// Its pool.
        keeper: LauncherId,
    },
    /// Another launcher has not finished placing nodes of this provider.
    StillPlacing {
        /// One of them.
        node: NodeId,
    },
    /// The launcher that places the nodes of this provider has declined it.
    DeclinedByKeeper {
        /// Its pool.
        keeper: LauncherId,
    },
    /// Nobody has its labels; whoever has may be starting.
    NobodyHasLabels {
        /// When it is declined.
        until: Timestamp,
    },
    // Of accepted requests.
    /// A launch has failed.
    LaunchFailed {
        /// In the words of the cloud.
        why: String,
    },
    /// The launcher is stopping.
    Stopping,
    /// The pool is not in the configuration any more.
    PoolRemoved,
    // Of nodes.
    /// It is in a state that is of no use to its request.
    OfNoUse {
        /// Which; `None`: there is no such node any more.
        #[serde(serialize_with = "state_as_text")]
        state: Option<NodeState>,
    },
    /// Its request needs it no longer.
    NotNeeded,
    /// Its request waits behind another one.
    HeldInVain {
        /// Which waits.
        request: RequestId,
    },
    /// Its room is needed.
    RoomNeeded,
    /// It was held for too long.
    HeldTooLong {
        /// What is allowed, in seconds.
        most: f64,
    },
    /// Whoever made it has ended.
    LeftInInit,
    /// Its server is of no use any more.
    Gone {
        /// In the words of the cloud.
        why: String,
    },
    /// It has waited longer than `max-ready-age`.
    TooOld {
        /// Whose.
        label: LabelName,
    },
    /// Its host is not in the configuration any more.
    HostRemoved,
    /// Its host has fewer slots than nodes.
    TooManyOnHost {
        /// Which.
        #[serde(serialize_with = "as_text")]
        host: HostId,
        /// `max-parallel-jobs`.
        slots: usize,
    },
    /// The launcher is stopping, and nobody else has the label that is to carry it.
    NoBacking {
        /// Which.
        label: LabelName,
    },
    /// Its label is not in the configuration any more.
    LabelRemoved,
    /// It carries nodes, and has failed.
    BackingFailed,
    /// It carries nodes, and is older than `max-age`.
    BackingTooOld,
    /// Nothing stands on it.
    BackingIdle,
    /// Nothing stands on it, and no launcher has the provider whose nodes it carried.
    BackingUnowned {
        /// Which.
        provider: ProviderName,
    },
}

/// A label that cannot be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BrokenLabel {
    /// Which.
    pub label: LabelName,
    /// In the words of whoever says so.
    pub why: String,
}

/// What is short of what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Excess {
    /// What is exceeded.
    pub bound: Bound,
    /// What is short, at least one.
    pub short: Vec<Short>,
}

/// A resource of which there is not enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Short {
    /// Its name, as in quotas.
    pub resource: String,
    /// How much is needed.
    pub needed: f64,
    /// How much there is; negative where more is used than may be.
    pub there: f64,
}

/// What something may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The provider's quota, whoever uses it.
    ProviderQuota,
    /// The provider's quota less what other users of the project take.
    ProviderQuotaLessOthers,
    /// What is not used of that.
    ProviderRest,
    /// The limits of the pool.
    PoolLimits,
    /// What is not used of those.
    PoolRest,
    /// What is not used of the limits of the tenant.
    TenantRest,
}

impl Bound {
    /// Whether it is that of a provider, and so of all its pools.
    pub fn is_of_provider(self) -> bool {
        matches!(self, Self::ProviderQuota | Self::ProviderQuotaLessOthers | Self::ProviderRest)
    }
}

impl Reason {
    /// Whether it is of the same kind, maybe with other numbers.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether what the cloud of this very provider says or sets free may end it. It does not where only other requests or other
    /// pools are waited for.
    pub fn concerns_the_cloud(&self) -> bool {
        !matches!(
            self,
            Self::TurnToCome
                | Self::Paused(_)
                | Self::LeftToProvider { .. }
                | Self::LeftToPriority { .. }
                | Self::LeftToPoolsWithLabels
                | Self::LeftToKeeper { .. }
                | Self::NobodyHasLabels { .. }
        )
    }

    /// What has to happen for it not to hold any more; `None`: it is final. For people.
    pub fn ended_by(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unknown { .. } => "an answer of the cloud",
            Self::Paused(_) => "`nodepool unpause`, by a person of the site",
            Self::NoRoom { excess, .. } | Self::AloneTooLarge(excess) | Self::TenantFull { excess, .. } => match excess
                .bound
            {
                Bound::ProviderQuota => "a larger quota of the provider",
                Bound::ProviderQuotaLessOthers => "less use of the quota by others in the project, or a larger quota",
                Bound::ProviderRest => "the end of nodes of this provider, or a larger quota",
                Bound::PoolLimits => "higher limits of the pool",
                Bound::PoolRest => "the end of nodes of this pool, or higher limits of the pool",
                Bound::TenantRest => "the end of nodes of the tenant, or higher limits of the tenant",
            },
            Self::QuotaRefused { .. } => "time, and a launch that works",
            Self::NoneFree { .. } => "the end of a job on a node with this label",
            Self::MaxConcurrency { .. } => "the end of launches of this provider",
            Self::AtCapacity { of } => return of.ended_by(),
            Self::BehindOthers { .. } => "earlier requests of this pool get their nodes",
            Self::TurnToCome => "the acceptance of others, within moments",
            Self::LeftToProvider { .. }
            | Self::LeftToPriority { .. }
            | Self::LeftToPoolsWithLabels
            | Self::LeftToKeeper { .. } => {
                "an answer of that pool: it accepts or declines the request, pauses, or goes"
            }
            Self::StillPlacing { .. } => "the end of what that launcher has begun",
            Self::NobodyHasLabels { .. } => "a pool with the labels, or time: it is declined then",
            Self::ImageMissing { .. } => "an upload of the image",
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { want, is_too_old, trouble } => {
                match want {
                    Want::Quota(provider) if *is_too_old => {
                        write!(
                            f,
                            "the quota of provider {provider} that is known is too small, and is asked for anew"
                        )?;
                    }
                    Want::Quota(provider) => write!(f, "the quota of provider {provider} is not known yet")?,
                    Want::LabelResources(_, _, label) => {
                        write!(f, "what a node of label {label} takes is not known yet")?;
                    }
                    Want::LabelReady(_, _, label) => {
                        write!(f, "whether the image of label {label} is there is not known yet")?;
                    }
                    Want::Zones(provider) => {
                        write!(f, "the availability zones of provider {provider} are not known yet")?;
                    }
                }
                trouble.as_ref().map_or(Ok(()), |trouble| write!(f, ": {trouble}"))
            }
            Self::Paused(by) => by.fmt(f),
            Self::PoolDisabled => f.write_str("pool is disabled by max-servers"),
            Self::LabelsMissing { labels, broken } => {
                let labels: Vec<_> = labels.iter().map(LabelName::as_str).collect();
                write!(f, "node type(s) [{}] not available", labels.join(", "))?;
                broken.iter().try_for_each(|broken| write!(f, "; {broken}"))
            }
            Self::LabelUnusable(broken) => broken.fmt(f),
            Self::ImageMissing { label, image: Some(image) } => {
                write!(f, "image of label {label} is not available: no ready upload of {image} here")
            }
            Self::ImageMissing { label, image: None } => {
                write!(f, "image of label {label} is not available: the cloud does not have it")
            }
            Self::AloneTooLarge(excess) if excess.bound == Bound::ProviderQuotaLessOthers => {
                write!(f, "the request alone {excess}")
            }
            Self::AloneTooLarge(excess) => write!(f, "it would exceed quota: the request alone {excess}"),
            Self::NoRoom { label, excess } => write!(f, "{label} {excess}"),
            Self::TenantFull { tenant, excess } => write!(f, "tenant {tenant}: it {excess}"),
            Self::QuotaRefused { .. } => f.write_str("the cloud refused the last launch for lack of quota"),
            Self::NoneFree { label } => write!(f, "no node of label {label} is free"),
            Self::MaxConcurrency { running, most } => {
                write!(f, "{running} launches are running, of max-concurrency {most}")
            }
            Self::AtCapacity { of } => write!(f, "at capacity: {of}"),
            Self::BehindOthers { is_accepted: false } => f.write_str(
                "the pool is paused: an earlier request waits for room, in a quota or limit, or is being served",
            ),
            Self::BehindOthers { is_accepted: true } => {
                f.write_str("an earlier request waits for room, in a quota or limit")
            }
            Self::TurnToCome => f.write_str("others are being accepted before it"),
            Self::LeftToProvider { provider } => write!(f, "left to provider {provider}, which the request prefers"),
            Self::LeftToPriority { pool } => write!(f, "left to a pool of higher priority: {pool}"),
            Self::LeftToPoolsWithLabels => f.write_str("left to pools that have its labels"),
            Self::LeftToKeeper { keeper } => write!(f, "left to {keeper}, which places the nodes of this provider"),
            Self::StillPlacing { node } => write!(f, "another launcher is still placing node {node}"),
            Self::DeclinedByKeeper { keeper } => {
                write!(f, "declined by {keeper}, which places the nodes of this provider")
            }
            Self::NobodyHasLabels { .. } => f.write_str("no pool has its labels; declined unless one comes"),
            Self::LaunchFailed { why } => f.write_str(why),
            Self::Stopping => f.write_str("the launcher is stopping"),
            Self::PoolRemoved => f.write_str("its pool was removed from the configuration"),
            Self::OfNoUse { state } => {
                write!(f, "it is {} and of no use to its request", state.map_or("gone", NodeState::as_str))
            }
            Self::NotNeeded => f.write_str("its request needs it no longer"),
            Self::HeldInVain { request } => write!(f, "request {request} waits for room behind another one"),
            Self::RoomNeeded => f.write_str("idle, and its room is needed"),
            Self::HeldTooLong { most } => write!(f, "held for longer than {most} s"),
            Self::LeftInInit => f.write_str("its launcher left it in state init"),
            Self::Gone { why } => write!(f, "it has gone while it waited: {why}"),
            Self::TooOld { label } => write!(f, "ready for longer than max-ready-age of label {label}"),
            Self::HostRemoved => f.write_str("its host is not in the configuration any more"),
            Self::TooManyOnHost { host, slots } => write!(f, "{host} has max-parallel-jobs: {slots}"),
            Self::NoBacking { label } => {
                write!(f, "the launcher is stopping, and no pool is left that has label {label}")
            }
            Self::LabelRemoved => f.write_str("its label is not in the configuration any more"),
            Self::BackingFailed => f.write_str("it has failed"),
            Self::BackingTooOld => f.write_str("it is older than max-age"),
            Self::BackingIdle => f.write_str("nothing stands on it"),
            Self::BackingUnowned { provider } => {
                write!(f, "nothing stands on it, and no launcher has provider {provider}, whose nodes it carried")
            }
        }
    }
}

impl fmt::Display for BrokenLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label {} cannot be used: {}", self.label, self.why)
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            Bound::ProviderQuota => "the provider's quota",
            Bound::ProviderQuotaLessOthers => "what others of its project leave of the provider's quota",
            Bound::ProviderRest => "what remains of the provider's quota",
            Bound::PoolLimits => "the pool's limits",
            Bound::PoolRest => "what remains of the pool's limits",
            Bound::TenantRest => "what remains of the tenant's limits",
        };
        write!(f, "exceeds {bound}: ")?;
        for (number, Short { resource, needed, there }) in self.short.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{needed} {resource} needed, {there} there")?;
        }
        Ok(())
    }
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn state_as_text<S: Serializer>(state: &Option<NodeState>, serializer: S) -> Result<S::Ok, S::Error> {
    state.map(NodeState::as_str).serialize(serializer)
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
