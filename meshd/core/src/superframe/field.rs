//! Bytes as numbers of the field GF(2⁸), of which two sums tell two unknowns.
//!
//! Owns the arithmetic, and knows nothing of slices. Addition is exclusive or. The field is that of x⁸ + x⁴ + x³ + x² + 1, in which the powers
//! of two are all numbers but zero; it is the one of RAID 6 (H. P. Anvin, "The mathematics of RAID-6").

/// What is left of x⁸.
const REST: u8 = 0x1d;

/// The powers of two, and of which each number is one.
const POWERS: ([u8; 256], [u8; 256]) = {
    let (mut powers, mut logs) = ([0; 256], [0; 256]);
    let (mut power, mut value) = (0, 1u8);
    while power < 255 {
        powers[power] = value;
        logs[value as usize] = power as u8;
        value = doubled(value);
        power += 1;
    }
    powers[255] = 1;
    (powers, logs)
};

const fn doubled(value: u8) -> u8 {
    // All ones if the highest bit is set: no branch, so that many are done at once.
    value << 1 ^ (0u8.wrapping_sub(value >> 7) & REST)
}

/// Two to the power of `exponent`.
pub(super) fn power(exponent: usize) -> u8 {
    POWERS.0[exponent % 255]
}

/// A number as a factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor(u8);

impl Factor {
    pub(super) fn new(number: u8) -> Self {
        Self(number)
    }

    /// One by it; zero of zero.
    pub(super) fn inverse(self) -> Self {
        match self.0 {
            0 => self,
            number => Self(power(255 - usize::from(POWERS.1[usize::from(number)]))),
        }
    }

    fn times(self, other: u8) -> u8 {
        if self.0 == 0 || other == 0 {
            return 0;
        }
        let log = |number: u8| usize::from(POWERS.1[usize::from(number)]);
        power(log(self.0) + log(other))
    }

    /// Multiplies each of `bytes` by it.
    pub(super) fn scale(self, bytes: &mut [u8]) {
        let products = self.products();
        for byte in bytes {
            *byte = products[usize::from(*byte)];
        }
    }

    /// Adds each of `bytes`, multiplied by it, to a sum that is at least as long.
    pub(super) fn add(self, sum: &mut [u8], bytes: &[u8]) {
        let products = self.products();
        for (sum, byte) in sum.iter_mut().zip(bytes) {
            *sum ^= products[usize::from(*byte)];
        }
    }

    fn products(self) -> [u8; 256] {
        let mut number = 0u8;
        [(); 256].map(|()| {
            let product = self.times(number);
            number = number.wrapping_add(1);
            product
        })
    }
}

/// Adds `bytes` to a sum that is at least as long.
pub(super) fn add(sum: &mut [u8], bytes: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(bytes) {
        *sum ^= byte;
    }
}

/// Doubles a sum.
pub(super) fn double(sum: &mut [u8]) {
    for sum in sum {
        *sum = doubled(*sum);
    }
}

/// Doubles a sum and adds `bytes`, which are no longer than it.
pub(super) fn double_and_add(sum: &mut [u8], bytes: &[u8]) {
    let (with, without) = sum.split_at_mut(bytes.len().min(sum.len()));
    for (sum, byte) in with.iter_mut().zip(bytes) {
        *sum = doubled(*sum) ^ byte;
    }
    double(without);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_powers_of_two_are_all_numbers_but_zero() {
        let mut powers: Vec<u8> = (0..255).map(power).collect();
        powers.sort_unstable();
        assert_eq!(powers, (1..=255).collect::<Vec<u8>>());
        assert_eq!((power(0), power(255), power(8)), (1, 1, REST));
    }

    #[test]
    fn whatever_is_multiplied_by_a_number_and_by_its_inverse_is_what_it_was() {
        for number in 1..=255 {
            let mut bytes: Vec<u8> = (0..=255).collect();
            Factor::new(number).scale(&mut bytes);
            Factor::new(number).inverse().scale(&mut bytes);
            assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        }
    }

    proptest! {
        #[test]
        fn doubling_again_and_again_is_multiplying_by_a_power(bytes: Vec<u8>, times in 0usize..300) {
            let (mut doubled, mut scaled) = (bytes.clone(), bytes);
            (0..times).for_each(|_| double(&mut doubled));
            Factor::new(power(times)).scale(&mut scaled);
            prop_assert_eq!(doubled, scaled);
        }

        #[test]
        fn a_sum_is_doubled_whole_and_what_is_short_added_in_front(mut sum: Vec<u8>, mut bytes: Vec<u8>) {
            bytes.truncate(sum.len());
            let mut wanted = sum.clone();
            double(&mut wanted);
            add(&mut wanted, &bytes);
            double_and_add(&mut sum, &bytes);
            prop_assert_eq!(sum, wanted);
        }

        #[test]
        fn factors_distribute_over_sums(a: u8, b: u8, factor: u8) {
            let by = Factor::new(factor);
            prop_assert_eq!(by.times(a ^ b), by.times(a) ^ by.times(b));
            prop_assert_eq!(Factor::new(a).times(b), Factor::new(b).times(a));
        }
    }
}
