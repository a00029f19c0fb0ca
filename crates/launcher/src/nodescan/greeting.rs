//! What an SSH server says before anything is encrypted: its banner, and the algorithms that it offers (RFC 4253, 4.2 and 7.1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More than any server offers.
const MOST: usize = 16 * 1024;
/// `SSH_MSG_KEXINIT`, the first packet of each side.
const KEXINIT: u8 = 20;
const COOKIE: usize = 16;

/// The first bytes of a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    /// Notes what has come.
    pub fn more(&self, bytes: &[u8]) {
        let mut heard = self.lock();
        let room = MOST.saturating_sub(heard.len());
        heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether anything has come.
    pub fn something(&self) -> bool {
        !self.lock().is_empty()
    }

    /// The algorithms of the server's host keys; `None`: that far it has not come.
    pub fn host_key_algorithms(&self) -> Option<Vec<String>> {
        let heard = self.lock();
        let mut rest = &heard[..];
        // A server may say other lines before its banner.
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if line.starts_with(b"SSH-") {
                break;
            }
        }
        // Length of the packet, length of its padding, message, cookie; then lists of names.
        let lists = rest.get(5..)?.strip_prefix(&[KEXINIT])?.get(COOKIE..)?;
        let (_key_exchanges, lists) = names(lists)?;
        let (host_keys, _) = names(lists)?;
        Some(String::from_utf8_lossy(host_keys).split(',').map(str::to_owned).collect())
    }

    /// What a server says that will have nothing to do with us, in its own words and ours.
    pub fn instead_of_a_banner(&self) -> Option<String> {
        let heard = self.lock();
        let text = String::from_utf8_lossy(&heard);
        let line = text.lines().next().filter(|line| !line.starts_with("SSH-"))?;
        // What OpenSSH says from 9.8 on.
        let why = line.contains("Not allowed at this time").then_some(
            ": sshd refuses this address for a while (PerSourcePenalties); PerSourcePenaltyExemptList in its sshd_config \
             excepts launchers",
        );
        let shown: String = line.chars().filter(|c| !c.is_control()).take(80).collect();
        why.map(|why| format!("instead of an SSH banner it says `{shown}`{why}"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name-list, and what follows it.
fn names(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_in_pieces_tells_the_algorithms_once_it_is_complete() {
        let mut greeting = b"Authorized use only\r\nSSH-2.0-OpenSSH_9.9\r\n\0\0\0\x50\x07\x14".to_vec();
        greeting.extend([7; COOKIE]);
        for names in ["curve25519-sha256", "rsa-sha2-512,rsa-sha2-256,ssh-ed25519"] {
            greeting.extend(u32::try_from(names.len()).unwrap().to_be_bytes());
            greeting.extend(names.as_bytes());
        }
        let heard = Heard::default();
        for byte in &greeting {
            assert_eq!(heard.host_key_algorithms(), None);
            heard.more(&[*byte]);
        }
        assert_eq!(heard.host_key_algorithms().unwrap(), ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]);
        assert_eq!(heard.instead_of_a_banner(), None);
    }

    #[test]
    fn a_server_that_refuses_our_address_is_quoted_with_the_way_out() {
        let heard = Heard::default();
        heard.more(b"Not allowed at this time\r\n");
        let why = heard.instead_of_a_banner().unwrap();
        assert!(why.contains("`Not allowed at this time`") && why.contains("PerSourcePenaltyExemptList"), "{why}");
    }
}
