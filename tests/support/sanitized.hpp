#pragma once

// Whether a sanitizer with a memory of its own is in the program: it maps and counts for itself.

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define THOLE_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define THOLE_TEST_SANITIZED 1
#endif
#endif
#ifndef THOLE_TEST_SANITIZED
#define THOLE_TEST_SANITIZED 0
#endif
