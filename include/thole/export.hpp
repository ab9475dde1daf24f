#pragma once

#if __cplusplus < 202002L
#error "thole needs C++20: compile with -std=c++20 or newer"
#endif

/// Marks what the library offers: everything else in it is hidden from the dynamic linker.
#define THOLE_EXPORT [[gnu::visibility("default")]]

/// What the function returns points into its object, so that a compiler which knows the attribute warns where the
/// object is a temporary that ends first.
#if defined(__has_cpp_attribute)
#if __has_cpp_attribute(clang::lifetimebound)
#define THOLE_LIFETIMEBOUND [[clang::lifetimebound]]
#endif
#endif
#ifndef THOLE_LIFETIMEBOUND
#define THOLE_LIFETIMEBOUND
#endif
