//! ZooKeeper's serialization: numbers are big-endian, texts and data have their length before them.

use super::super::protocol::Stat;

/// A request as it is built. It begins with room for its length and its xid.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

/// Length and xid.
const LENGTH_AND_XID: usize = 8;

impl Message {
    /// A request of that operation code.
    pub(super) fn new(operation: i32) -> Self {
        Self(vec![0; LENGTH_AND_XID]).int(operation)
    }

    /// The request that begins or resumes a session: it has neither xid nor operation code.
    pub(super) fn connect_request() -> Self {
        Self(vec![0; 4])
    }

    pub(super) fn int(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn flag(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    /// Data, or a text of several parts.
    pub(super) fn bytes(mut self, parts: &[&[u8]]) -> Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self = self.int(i32::try_from(length).unwrap_or(i32::MAX));
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self
    }

    /// As it is sent, without an xid.
    pub(super) fn finished(mut self) -> Vec<u8> {
        let length = i32::try_from(self.0.len() - 4).unwrap_or(i32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }

    /// As it is sent, with that xid.
    pub(super) fn with_xid(mut self, xid: i32) -> Vec<u8> {
        self.0[4..LENGTH_AND_XID].copy_from_slice(&xid.to_be_bytes());
        self.finished()
    }
}

/// What was received does not have the form that it should have.
#[derive(Debug, thiserror::Error)]
#[error("the server's message cannot be read: {0}")]
pub(super) struct Malformed(pub &'static str);

/// The rest of a message that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it is too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        self.array().map(|[byte]: [u8; 1]| byte != 0)
    }

    /// Absent data is as empty data.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int()?;
        if length == -1 {
            Ok(&[])
        } else {
            self.take(usize::try_from(length).map_err(|_| Malformed("a length is negative"))?)
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub(super) fn texts(&mut self) -> Result<Vec<String>, Malformed> {
        (0..self.int()?).map(|_| self.text().map(str::to_owned)).collect()
    }

    pub(super) fn stat(&mut self) -> Result<Stat, Malformed> {
        let (czxid, mzxid, ctime, mtime) = (self.long()?, self.long()?, self.long()?, self.long()?);
        let (version, cversion, _access_version) = (self.int()?, self.int()?, self.int()?);
        let (ephemeral_owner, _length, num_children, _children_zxid) =
            (self.long()?, self.int()?, self.int()?, self.long()?);
        Ok(Stat { czxid, mzxid, ctime, mtime, version, cversion, ephemeral_owner, num_children })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(4).bytes(&[b"/chroot", b"/x"]).long(-2).flag(true).bytes(&[]).with_xid(7);
        let mut reader = Reader(&message);
        assert_eq!(usize::try_from(reader.int().unwrap()).unwrap(), message.len() - 4);
        assert_eq!((reader.int().unwrap(), reader.int().unwrap()), (7, 4));
        assert_eq!(reader.text().unwrap(), "/chroot/x");
        assert_eq!((reader.long().unwrap(), reader.flag().unwrap()), (-2, true));
        assert_eq!(reader.bytes().unwrap(), b"");
        assert!(reader.flag().is_err(), "there is no more");
    }

    #[test]
    fn what_claims_to_be_longer_than_it_is_is_refused() {
        assert!(Reader(&[0, 0, 0, 5, b'x']).bytes().is_err());
        assert!(Reader(&[0xff, 0xff, 0xff, 0xfe]).bytes().is_err());
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff]).bytes().unwrap(), b"", "absent");
        assert!(Reader(&[0x7f, 0xff, 0xff, 0xff]).texts().is_err(), "nothing is reserved for what is not there");
        assert!(Reader(&[0; 67]).stat().is_err());
        assert!(Reader(&[0; 68]).stat().is_ok());
    }
}
