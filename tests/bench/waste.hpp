#pragma once

#include <thole/thole.hpp>

namespace bench {

class Figures;
/// How much of an arena can be handed out, size after size, in two orders.
void hand_out(Figures& figures, const thole::Device& device);
/// How large an arena the traces of programs need, and whether that grows with time.
void traces(Figures& figures, const thole::Device& device);
/// What it takes to copy a mapped file to the device.
void adopted_file(Figures& figures, const thole::Device& device);

}  // namespace bench
