#pragma once

#include <thole/export.hpp>  // first: it says so where the language is too old

// Everything that a program of its own needs. What joins thole to others is asked for by name: coroutine.hpp, cuda.hpp,
// cuda_mr.hpp, dlpack.hpp, mpi.hpp, pmr.hpp, range_v3.hpp, trace.hpp.

#include <thole/arena.hpp>
#include <thole/borrow.hpp>
#include <thole/buffer.hpp>
#include <thole/config.hpp>
#include <thole/device.hpp>
#include <thole/device_buffer.hpp>
#include <thole/error.hpp>
#include <thole/event.hpp>
#include <thole/forever.hpp>
#include <thole/graph.hpp>
#include <thole/heap.hpp>
#include <thole/launch.hpp>
#include <thole/parts.hpp>
#include <thole/pin_method.hpp>
#include <thole/report.hpp>
#include <thole/simulation.hpp>
#include <thole/stream.hpp>
#include <thole/use_on.hpp>
