#pragma once

// Everything but <thole/cuda.hpp> and <thole/coroutine.hpp>.

#include <thole/arena.hpp>
#include <thole/borrow.hpp>
#include <thole/borrow_view.hpp>
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
#include <thole/pin_method.hpp>
#include <thole/report.hpp>
#include <thole/simulation.hpp>
#include <thole/stream.hpp>
#include <thole/use_on.hpp>
