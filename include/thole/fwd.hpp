#pragma once

// The names of handles, for a program's own headers: it includes nothing, and costs nothing to compile.

namespace thole::inline v0_1 {

// Each is documented where it is defined.
class Device;
class Error;
class Event;
class Graph;
class GraphExec;
class PinnedArena;
class PinnedHeap;
class Simulation;
class Stream;
class StreamRef;
class UseList;
enum class Errc;
template <class T>
class DeviceBuffer;
template <class T>
class DeviceSpan;
template <class T>
class PinnedBuffer;

}  // namespace thole::inline v0_1
