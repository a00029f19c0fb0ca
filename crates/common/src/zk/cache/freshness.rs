//! [`Freshness`]: how far what is known of `/nodepool` can be relied on.

/// How far the records can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Not at all: the connection is broken, or nothing has been read in this session, or, for a moment, what we have created is
    /// still to be read.
    #[default]
    Stale,
    /// The connection was broken, and works again in the same session. The records are those of before, with what was written
    /// and seen since; what others did meanwhile is being read.
    Renewing,
    /// They are those of a live connection.
    Current,
}
