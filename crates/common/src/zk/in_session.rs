//! [`InSession`]: what is done in one session, or not at all.
//!
//! Names, versions and transactions of two sessions cannot be compared: between them ZooKeeper may have been set back to an
//! older state, where they come again for something else. A lock ends with its session, and with it whatever was to be done
//! under it. Whoever decides by what was read, and takes no lock for what follows, says here in which session that was.

use std::sync::Arc;

use super::{
    ZkError, ZooKeeper,
    protocol::{Client, SessionId},
    session::Shared,
};

/// One session, be it over by now. It does not keep the session alive.
#[derive(Clone, Debug)]
pub struct InSession {
    pub(super) shared: Arc<Shared>,
    session: SessionId,
}

impl ZooKeeper {
    /// That session. Where it is not the current one any more, all that is asked for in it fails with
    /// [`ZkError::SessionLost`].
    pub fn in_session(&self, session: SessionId) -> InSession {
        InSession { shared: Arc::clone(&self.shared), session }
    }

    /// The current session; waits for one, no longer than a session would last. `verb` and `path` are for the message where
    /// there is none.
    pub async fn in_current_session(&self, verb: &str, path: &str) -> Result<InSession, ZkError> {
        let (session, _) = self.shared.client(verb, path).await?;
        Ok(self.in_session(session))
    }
}

impl InSession {
    /// Which one it is.
    pub fn id(&self) -> SessionId {
        self.session
    }

    /// Its client.
    pub(super) fn client(&self, verb: &str, path: &str) -> Result<Client, ZkError> {
        let client = self.shared.client_of(self.session);
        client.ok_or_else(|| ZkError::SessionLost { doing: format!("{verb} {path}") })
    }
}
