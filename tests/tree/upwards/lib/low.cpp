#include "high.hpp"
