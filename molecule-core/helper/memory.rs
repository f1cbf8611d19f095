//! What compiled code expects to be there without a C library.

use core::ffi::c_void;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcpy(
    to: *mut c_void,
    from: *const c_void,
    length: usize,
) -> *mut c_void {
    let (to_bytes, from_bytes) = (to.cast::<u8>(), from.cast::<u8>());
    for at in 0..length {
        // SAFETY: the caller says that both have so many bytes.
        unsafe { *to_bytes.add(at) = *from_bytes.add(at) };
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memmove(
    to: *mut c_void,
    from: *const c_void,
    length: usize,
) -> *mut c_void {
    if to.cast_const() <= from {
        // SAFETY: the caller's; forwards, what is read was not written yet.
        return unsafe { memcpy(to, from, length) };
    }
    let (to_bytes, from_bytes) = (to.cast::<u8>(), from.cast::<u8>());
    for at in (0..length).rev() {
        // SAFETY: the caller says that both have so many bytes.
        unsafe { *to_bytes.add(at) = *from_bytes.add(at) };
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memset(to: *mut c_void, value: i32, length: usize) -> *mut c_void {
    for at in 0..length {
        // SAFETY: the caller says that it has so many bytes.
        unsafe { *to.cast::<u8>().add(at) = value as u8 };
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcmp(
    one: *const c_void,
    other: *const c_void,
    length: usize,
) -> i32 {
    for at in 0..length {
        // SAFETY: the caller says that both have so many bytes.
        let (one, other) = unsafe { (*one.cast::<u8>().add(at), *other.cast::<u8>().add(at)) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bcmp(
    one: *const c_void,
    other: *const c_void,
    length: usize,
) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(one, other, length) }
}

/// The core library may name it; nothing unwinds here.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn rust_eh_personality() {}
