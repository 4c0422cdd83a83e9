//! Memory that is free and yet the process's own.
//!
//! While many pipelines are brought about, short-lived and long-lived objects lie side by side. glibc's allocator keeps what is
//! free between them, unless it is asked to give it back.

/// Gives the pages that nothing is on back to the kernel. Walks the whole heap: some milliseconds for a thousand pipelines.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: it may be called at any time from any thread (malloc_trim(3): MT-Safe), takes no pointer, and touches only pages
    // on which no allocation lies.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do that by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
