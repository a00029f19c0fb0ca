//! The clock of records: seconds since the epoch, as Python's `time.time()`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// Seconds since the epoch. 0 on a machine whose clock stands before it.
pub fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
