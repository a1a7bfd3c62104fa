//! A hash for tables whose keys others choose: NH (RFC 4418 section 5.2), which the authentication code
//! UMAC is built on.
//!
//! Words are added to secret ones, and the sums multiplied in pairs. Of any two keys of the same form,
//! chosen in whatever way by who does not know the secret, at most one secret in 2^32 gives both the same
//! sum: each pair of words has a product that half of the secret alone decides about. Mixing words with
//! each other before the secret comes in has no such bound: who does that with an address of 128 bits
//! finds others that fall together under every secret. Nor has a chain of exclusive-or and multiplication
//! by constants: the highest bit of a product is the highest bit of the factor, secret or not.
//!
//! Four multiplications that do not wait for each other, and two to spread the sum: a few nanoseconds.

/// Words of a seed.
pub const SEED_WORDS: usize = 10;

/// What nobody outside the tables knows.
pub type Seed = [u32; SEED_WORDS];

/// An odd number of 64 bits without a pattern (xxHash's second prime).
const SPREAD: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Of eight words.
#[inline(always)]
pub const fn of_eight(words: [u32; 8], seed: &Seed) -> u64 {
    let [a, b, c, d, e, f, g, h] = words;
    let first = product(a, b, seed[0], seed[1]).wrapping_add(product(c, d, seed[2], seed[3]));
    let second = product(e, f, seed[4], seed[5]).wrapping_add(product(g, h, seed[6], seed[7]));
    spread(first.wrapping_add(second), seed)
}

/// Of four words.
#[inline(always)]
pub const fn of_four(words: [u32; 4], seed: &Seed) -> u64 {
    let [a, b, c, d] = words;
    let sum = product(a, b, seed[0], seed[1]).wrapping_add(product(c, d, seed[2], seed[3]));
    spread(sum, seed)
}

#[inline(always)]
const fn product(one: u32, other: u32, secret: u32, other_secret: u32) -> u64 {
    one.wrapping_add(secret) as u64 * other.wrapping_add(other_secret) as u64
}

/// Has every bit of the sum show in the upper bits. A secret factor, so that sums that are alike do not
/// fall together for everybody; one-to-one, so that what is told apart stays so.
#[inline(always)]
const fn spread(sum: u64, seed: &Seed) -> u64 {
    let factor = ((seed[8] as u64) << 32 | seed[9] as u64) | 1;
    let mixed = sum.wrapping_mul(factor);
    (mixed ^ mixed >> 32).wrapping_mul(SPREAD)
}
