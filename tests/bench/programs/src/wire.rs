//! ZooKeeper's packets: big-endian numbers, texts and data with their length before them.

use crate::zk::Stat;

/// A packet to send; its first four bytes become its length.
pub struct Packet(Vec<u8>);

impl Packet {
    pub fn new() -> Self {
        Self(vec![0; 4])
    }

    /// A request: its number and what it asks for.
    pub fn request(xid: i32, operation: i32) -> Self {
        Self::new().int(xid).int(operation)
    }

    pub fn int(mut self, v: i32) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }

    pub fn long(mut self, v: i64) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }

    pub fn bytes(mut self, v: &[u8]) -> Self {
        self = self.int(length(v.len()));
        self.0.extend(v);
        self
    }

    pub fn text(self, v: &str) -> Self {
        self.bytes(v.as_bytes())
    }

    pub fn bool(mut self, v: bool) -> Self {
        self.0.push(u8::from(v));
        self
    }

    pub fn framed(mut self) -> Vec<u8> {
        let n = length(self.0.len() - 4);
        self.0[..4].copy_from_slice(&n.to_be_bytes());
        self.0
    }
}

/// Packets are far smaller than 2 GiB: ZooKeeper takes no more than 1 MiB.
fn length(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Reads an answer from its front; None where it is shorter than it should be.
pub struct Answer<'a>(pub &'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn int(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    pub fn long(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_be_bytes)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        // -1: no data at all.
        let n = usize::try_from(self.int()?).unwrap_or(0);
        self.take(n)
    }

    pub fn text(&mut self) -> Option<String> {
        self.bytes().map(|b| String::from_utf8_lossy(b).into_owned())
    }

    pub fn texts(&mut self) -> Option<Vec<String>> {
        (0..self.int()?).map(|_| self.text()).collect()
    }

    pub fn stat(&mut self) -> Option<Stat> {
        self.take(16)?; // czxid, mzxid
        let (ctime, mtime) = (self.long()?, self.long()?);
        self.take(24)?; // version, cversion, aversion, ephemeralOwner, dataLength
        let children = self.int()?;
        self.take(8)?; // pzxid
        Some(Stat { ctime, mtime, children })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let packet = Packet::request(7, 4).text("/a").bool(true).framed();
        let mut answer = Answer(&packet);
        assert_eq!(answer.int(), Some(15));
        assert_eq!((answer.int(), answer.int()), (Some(7), Some(4)));
        assert_eq!(answer.text().as_deref(), Some("/a"));
        assert_eq!(answer.0, [1]);
    }

    #[test]
    fn a_short_answer_is_none() {
        assert_eq!(Answer(&[0, 0, 0, 9, b'x']).bytes(), None);
        assert_eq!(Answer(&[0, 0]).int(), None);
    }
}
