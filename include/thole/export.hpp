#pragma once

/// Marks what the library offers: everything else in it is hidden from the dynamic linker.
#define THOLE_EXPORT __attribute__((visibility("default")))
