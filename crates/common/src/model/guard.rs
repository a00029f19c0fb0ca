//! Guards: the places that a promise rests on, each with a name under which a test may remove it and see that somebody notices.
//!
//! `if guard::is_removed("…")` stands where a guard would be passed by, so that the condition beside it can be read as it is. In a
//! release build it is `false`, and nothing of it is left. In a debug build one guard may be removed in one thread, by who runs
//! everything in that: the simulation (`crates/sim/src/tests/mutations.rs` has the list of all names). Nothing that a process is given
//! removes any.
//!
//! It stands among the records because deciding has guards too, and knows nothing else of this crate.

#[cfg(debug_assertions)]
std::thread_local! {
    static REMOVED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether the guard of that name is removed.
#[inline]
pub fn is_removed(name: &str) -> bool {
    #[cfg(debug_assertions)]
    return REMOVED.get() == Some(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

/// Removes a guard in this thread; `None`: none any more.
#[cfg(debug_assertions)]
pub fn remove(name: Option<&'static str>) {
    REMOVED.set(name);
}
