// Linked with one file for each public header: that they compile is the test.
int main() {}
